"""Gelu in its spellings, with and without a bias."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from relaxc.frontend.operators.base import Converter, NodeContext, dtype
from relaxc.frontend.operators.microsoft.nodes import scalar


def _activation(func: Callable[[relax.Expr], relax.Expr]) -> Converter:
    """A converter of `func(x)`, or `func(x + bias)`; halves are computed in single precision."""

    def convert(ctx: NodeContext) -> relax.Expr:
        x, bb = ctx.input(0), ctx.bb
        kind = dtype(x)
        if ctx.has(1):
            x = bb.emit(relax.op.add(x, ctx.input(1)))
        if kind in ("float32", "float64"):
            return func(x)
        return relax.op.astype(bb.emit(func(bb.emit(relax.op.astype(x, "float32")))), kind)

    return convert


def quick_gelu(ctx: NodeContext) -> relax.Expr:
    """QuickGelu: x * sigmoid(alpha * x)."""
    alpha = float(ctx.attrs.get("alpha", 1.702))

    def func(x: relax.Expr) -> relax.Expr:
        gate = ctx.bb.emit(relax.op.multiply(x, scalar(alpha, x)))
        return relax.op.multiply(x, ctx.bb.emit(relax.op.sigmoid(gate)))

    return _activation(func)(ctx)


def gelu(ctx: NodeContext) -> relax.Expr:
    """Gelu and BiasGelu, with the error function."""
    return _activation(relax.op.nn.gelu)(ctx)


def fast_gelu(ctx: NodeContext) -> relax.Expr:
    """FastGelu, with the hyperbolic tangent."""
    return _activation(relax.op.nn.gelu_tanh)(ctx)


CONVERTERS: dict[str, Converter] = {
    "BiasGelu": gelu,
    "FastGelu": fast_gelu,
    "Gelu": gelu,
    "QuickGelu": quick_gelu,
}
