"""Elementwise operators whose stock converters hide them in loop nests, where passes cannot see."""

from __future__ import annotations

from collections.abc import Callable

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


def chain(join: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    """Sum, Max and Min of any number of tensors, one operator per pair.

    The stock converters stack the tensors and reduce the stack.
    """

    def convert(ctx: NodeContext) -> relax.Expr:
        result = ctx.input(0)
        for i in range(1, len(ctx.inputs)):
            result = ctx.bb.normalize(join(result, ctx.input(i)))
        return result

    return convert


def mean(ctx: NodeContext) -> relax.Expr:
    """Mean of any number of tensors."""
    total = chain(relax.op.add)(ctx)
    count = relax.const(len(ctx.inputs), total.ty.dtype.dtype)
    return relax.op.divide(total, count) if len(ctx.inputs) > 1 else total


def sign(ctx: NodeContext) -> relax.Expr:
    """Sign; of unsigned numbers, whether they are positive."""
    value = ctx.input(0)
    kind = value.ty.dtype.dtype
    return (
        relax.op.minimum(value, relax.const(1, kind))
        if kind.startswith("u")
        else relax.op.sign(value)
    )


CONVERTERS: dict[str, Converter] = {
    "Clip": clip,
    "Max": chain(relax.op.maximum),
    "Mean": mean,
    "Min": chain(relax.op.minimum),
    "Sign": sign,
    "Sum": chain(relax.op.add),
}
