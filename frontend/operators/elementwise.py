"""Elementwise operators whose stock converters hide them in loop nests, where passes cannot see."""

from __future__ import annotations

from tvm import relax
from tvm.ir import GenericConst

from relaxc.frontend.operators.base import Converter, NodeContext


def clip(ctx: NodeContext) -> relax.Expr:
    """Clip: constant bounds become one operator, others a maximum and a minimum."""
    result = ctx.input(0)
    bounds = [ctx.inputs[i] if ctx.has(i) else None for i in (1, 2)]
    low, high = (_number(b) for b in bounds)
    is_float = result.ty.dtype.dtype.startswith("float")
    if is_float and low is not None and high is not None:
        return relax.op.clip(result, low, high)
    for bound, join in ((bounds[0], relax.op.maximum), (bounds[1], relax.op.minimum)):
        if bound is not None:
            result = join(result, bound)
    return result


def _number(value: relax.Expr | None) -> float | None:
    if isinstance(value, GenericConst):
        array = value.value.numpy()
        if array.size == 1:
            return float(array.reshape(-1)[0])
    return None


CONVERTERS: dict[str, Converter] = {"Clip": clip}
