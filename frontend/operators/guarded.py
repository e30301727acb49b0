"""MatMul, Softmax and Hardmax, where TVM's converters want more known than a model says."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.broadcast import common_sizes, expand_axes, is_open, with_sizes
from relaxc.frontend.operators.halves import HALVES
from relaxc.frontend.operators.stock import convert_with_tvm


def matmul(ctx: NodeContext) -> relax.Expr:
    """MatMul; halves are added up in single precision, as every other runtime does."""
    a, b = _agreeing(ctx, ctx.input(0), ctx.input(1))
    if dtype(a) not in HALVES:
        return relax.op.matmul(a, b)
    wide = [ctx.bb.emit(relax.op.astype(x, "float32")) for x in (a, b)]
    return relax.op.astype(ctx.bb.emit(relax.op.matmul(*wide)), dtype(a))


def _agreeing(ctx: NodeContext, a: relax.Expr, b: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """The operands, with dimensions that TVM can tell to fit."""
    if not dims(a) or not dims(b):
        raise ValueError("a scalar is no matrix")
    inner = max(len(dims(b)) - 2, 0)
    if isinstance(dims(b)[inner], tirx.IntImm):
        a = with_sizes(ctx, a, {len(dims(a)) - 1: dims(b)[inner]})
    else:
        b = with_sizes(ctx, b, {inner: dims(a)[-1]})
    rank = min(len(dims(a)), len(dims(b)))
    pairs = {axis: [dims(a)[-axis], dims(b)[-axis]] for axis in range(3, rank + 1)}
    open_axes = {axis: sizes for axis, sizes in pairs.items() if is_open(sizes)}
    if not open_axes:
        return a, b
    common = dict(zip(open_axes, common_sizes(ctx, list(open_axes.values()))))
    return expand_axes(ctx, a, common), expand_axes(ctx, b, common)


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


def hardmax(ctx: NodeContext) -> relax.Expr:
    """Hardmax: 1 at the first maximum along an axis of any size, 0 elsewhere."""
    data = ctx.input(0)
    rank = len(dims(data))
    axis = int(ctx.attrs.get("axis", -1)) % rank
    first = ctx.bb.emit(relax.op.argmax(data, axis, True))

    def compute(x: te.Tensor, first: te.Tensor) -> te.Tensor:
        one, zero = (tirx.const(v, str(x.dtype)) for v in (1.0, 0.0))

        def element(*i: Any) -> Any:
            at = first(*i[:axis], 0, *i[axis + 1 :])
            return tirx.Select(at == i[axis], one, zero)

        return te.compute(x.shape, element, name="hardmax")

    return ctx.emit_te(compute, data, first)


CONVERTERS: dict[str, Converter] = {
    "Hardmax": hardmax,
    "MatMul": matmul,
    "Softmax": softmax,
}
