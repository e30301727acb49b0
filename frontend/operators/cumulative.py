"""CumSum and CumProd, along an axis that may be computed when the model runs."""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

from typing import Any

from tvm import relax, tirx
from tvm.script import tirx as T

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.vectors import as_vector, axis_parts


def _cumulative(is_sum: bool) -> Converter:
    def convert(ctx: NodeContext) -> relax.Expr:
        data = ctx.input(0)
        shape = dims(data)
        known = ctx.static(1)
        axis = as_vector(ctx, 1) if known is None else known[0] % len(shape)
        outer, size, inner = axis_parts(ctx, axis, shape, len(shape))
        flat = ctx.bb.emit(relax.op.reshape(data, relax.ShapeExpr([outer, size, inner])))
        func = _loops(
            (outer, size, inner),
            dtype(data),
            is_sum,
            bool(ctx.attrs.get("exclusive", 0)),
            bool(ctx.attrs.get("reverse", 0)),
        )
        gvar = ctx.bb.add_func(func, "cumulate")
        result = relax.TensorType([outer, size, inner], dtype(data))
        done = ctx.bb.emit(relax.call_tir(gvar, [flat], result))
        return relax.op.reshape(done, relax.ShapeExpr(shape))

    return convert


def _loops(
    shape: tuple[Any, Any, Any], kind: str, is_sum: bool, exclusive: bool, reverse: bool
) -> tirx.PrimFunc:
    # A loop nest learns sizes from its buffers, whose dimensions must be symbols for that.
    outer, size, inner = (
        d if isinstance(d, tirx.IntImm) else tirx.Var(name, "int64")
        for d, name in zip(shape, ("outer", "size", "inner"))
    )
    start = 0 if is_sum else 1

    @T.prim_func(private=True)
    def cumulate(
        x: T.Buffer((outer, size, inner), kind),
        y: T.Buffer((outer, size, inner), kind),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        total = T.alloc_buffer((1,), kind)
        for i in range(outer):
            for k in range(inner):
                total[0] = T.Cast(kind, start)
                for j in range(size):
                    at = T.meta_var(size - 1 - j if reverse else j)
                    if exclusive:
                        y[i, at, k] = total[0]
                    if is_sum:
                        total[0] = total[0] + x[i, at, k]
                    else:
                        total[0] = total[0] * x[i, at, k]
                    if not exclusive:
                        y[i, at, k] = total[0]

    return cumulate


CONVERTERS: dict[str, Converter] = {
    "CumProd": _cumulative(is_sum=False),
    "CumSum": _cumulative(is_sum=True),
}
