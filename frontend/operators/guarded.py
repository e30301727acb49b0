"""MatMul and Softmax: TVM's converters, but for halves."""

from __future__ import annotations

from tvm import relax

from relaxc.frontend.operators.base import Converter, NodeContext, dtype
from relaxc.frontend.operators.halves import HALVES
from relaxc.frontend.operators.stock import convert_with_tvm


def matmul(ctx: NodeContext) -> relax.Expr:
    """MatMul; halves are added up in single precision, as every other runtime does."""
    if dtype(ctx.input(0)) not in HALVES:
        return convert_with_tvm(ctx)
    wide = [ctx.bb.emit(relax.op.astype(ctx.input(i), "float32")) for i in (0, 1)]
    return relax.op.astype(ctx.bb.emit(relax.op.matmul(*wide)), dtype(ctx.input(0)))


def softmax(ctx: NodeContext) -> relax.Expr:
    """Softmax; of halves, added up in single precision, with every step rounded as ONNX says."""
    kind, axis = dtype(ctx.input(0)), int(ctx.attrs.get("axis", -1))
    if kind not in HALVES:
        return convert_with_tvm(ctx)

    def rounded(value: relax.Expr) -> relax.Expr:
        narrow = ctx.bb.emit(relax.op.astype(value, kind))
        return ctx.bb.emit(relax.op.astype(narrow, "float32"))

    wide = ctx.bb.emit(relax.op.astype(ctx.input(0), "float32"))
    top = ctx.bb.emit(relax.op.max(wide, axis, True))
    powers = rounded(relax.op.exp(rounded(relax.op.subtract(wide, top))))
    total = rounded(relax.op.sum(powers, axis, True))
    return relax.op.astype(ctx.bb.emit(relax.op.divide(powers, total)), kind)


CONVERTERS: dict[str, Converter] = {
    "MatMul": matmul,
    "Softmax": softmax,
}
