"""LayerNormalization with all results, LpNormalization, BatchNormalization in training mode."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from tvm import relax, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, constant, dims, dtype
from relaxc.frontend.operators.broadcast import with_sizes
from relaxc.frontend.operators.stock import convert_with_tvm
from relaxc.frontend.operators.vectors import forbidden
from relaxc.frontend.shape_values import Element


def layer_normalization(ctx: NodeContext) -> relax.Expr:
    """LayerNormalization; with mean and inverse deviation where the node asks for them."""
    data = ctx.input(0)
    rank = len(dims(data))
    axis = int(ctx.attrs.get("axis", -1)) % rank
    asked = [bool(name) for name in ctx.node.output]
    kind = dtype(data)
    scale = dims(ctx.input(1))
    is_plain = not any(asked[1:]) and len(scale) == rank - axis
    is_plain &= kind not in ("float64", "bfloat16")  # of which TVM has none
    # TVM wants it proved that the scale fits.
    sizes = {rank - len(scale) + k: n for k, n in enumerate(scale) if isinstance(n, tirx.IntImm)}
    data = with_sizes(ctx, data, {a: n for a, n in sizes.items() if not _is_one(n)})
    if is_plain and scale and not any(map(_is_one, scale)):
        data = with_sizes(ctx, data, dict(zip(range(axis, rank), scale)))
        return convert_with_tvm(dataclasses.replace(ctx, inputs=[data, *ctx.inputs[1:]]))
    axes = list(range(axis, rank))
    bb = ctx.bb
    wide = data if kind in ("float32", "float64") else bb.emit(relax.op.astype(data, "float32"))
    mean = bb.emit(relax.op.mean(wide, axes, True))
    centered = bb.emit(relax.op.subtract(wide, mean))
    variance = bb.emit(relax.op.mean(bb.emit(relax.op.multiply(centered, centered)), axes, True))
    epsilon = relax.const(float(ctx.attrs.get("epsilon", 1e-5)), dtype(wide))
    inverse = bb.emit(relax.op.rsqrt(bb.emit(relax.op.add(variance, epsilon))))
    result = bb.emit(relax.op.multiply(centered, inverse))
    if dtype(result) != kind:
        result = bb.emit(relax.op.astype(result, kind))
    result = bb.emit(relax.op.multiply(result, ctx.input(1)))
    if ctx.has(2):
        result = bb.emit(relax.op.add(result, ctx.input(2)))
    return relax.Tuple([result, mean, inverse][: len(ctx.node.output)])


def _is_one(size: Element) -> bool:
    return isinstance(size, tirx.IntImm) and int(size) == 1


def lp_normalization(ctx: NodeContext) -> relax.Expr:
    """LpNormalization; where the norm is 0, so is the result."""
    data, axis = ctx.input(0), int(ctx.attrs.get("axis", -1))
    p = int(ctx.attrs.get("p", 2))
    if p not in (1, 2):
        raise ValueError(f"p = {p} is not supported")
    bb = ctx.bb
    parts = bb.emit(relax.op.abs(data) if p == 1 else relax.op.multiply(data, data))
    norm = bb.emit(relax.op.sum(parts, [axis], True))
    if p == 2:
        norm = bb.emit(relax.op.sqrt(norm))
    zero, one = (constant(np.full((), v, dtype(data))) for v in (0, 1))
    is_zero = bb.emit(relax.op.equal(norm, zero))
    return relax.op.divide(data, bb.emit(relax.op.where(is_zero, one, norm)))


def per_channel(ctx: NodeContext) -> relax.Expr:
    """BatchNormalization and InstanceNormalization: as many channels as the scale has elements."""
    data, scale = ctx.input(0), dims(ctx.input(1))
    if len(dims(data)) < 2 or len(scale) != 1:
        raise ValueError("it takes data with channels and a vector of scales")
    known = with_sizes(ctx, data, {1: scale[0]})
    if known.same_as(data) or ctx.node.op_type != "BatchNormalization":
        return convert_with_tvm(dataclasses.replace(ctx, inputs=[known, *ctx.inputs[1:]]))
    # TVM's rewriting of batch norms does not see through a cast.
    bb = ctx.bb
    epsilon = relax.const(float(ctx.attrs.get("epsilon", 1e-5)), dtype(ctx.input(4)))
    inverse = bb.emit(relax.op.rsqrt(bb.emit(relax.op.add(ctx.input(4), epsilon))))
    factor = bb.emit(relax.op.multiply(inverse, ctx.input(1)))
    moved = bb.emit(relax.op.multiply(ctx.input(3), factor))
    offset = bb.emit(relax.op.subtract(ctx.input(2), moved))
    axes = list(range(1, len(dims(data)) - 1))
    factor, offset = (bb.emit(relax.op.expand_dims(v, axes)) for v in (factor, offset))
    return relax.op.add(bb.emit(relax.op.multiply(known, factor)), offset)


def batch_normalization(ctx: NodeContext) -> relax.Expr:
    """BatchNormalization; in training mode also the running mean and variance."""
    if not ctx.attrs.get("training_mode", 0):
        return per_channel(ctx)
    data, bb = ctx.input(0), ctx.bb
    rank = len(dims(data))
    axes = [a for a in range(rank) if a != 1]
    momentum = float(ctx.attrs.get("momentum", 0.9))

    def weighted(value: relax.Expr, weight: float) -> relax.Expr:
        return bb.emit(relax.op.multiply(value, relax.const(weight, dtype(value))))

    def column(value: relax.Expr) -> relax.Expr:
        return bb.emit(relax.op.expand_dims(value, [a if a == 0 else a for a in axes]))

    mean = bb.emit(relax.op.mean(data, axes))
    variance = bb.emit(relax.op.variance(data, axes))
    running = [
        bb.emit(relax.op.add(weighted(ctx.input(i), momentum), weighted(new, 1 - momentum)))
        for i, new in ((3, mean), (4, variance))
    ]
    epsilon = relax.const(float(ctx.attrs.get("epsilon", 1e-5)), dtype(data))
    scale = bb.emit(relax.op.rsqrt(bb.emit(relax.op.add(variance, epsilon))))
    scale = bb.emit(relax.op.multiply(scale, ctx.input(1)))
    centered = bb.emit(relax.op.subtract(data, column(mean)))
    result = bb.emit(relax.op.multiply(centered, column(scale)))
    result = bb.emit(relax.op.add(result, column(ctx.input(2))))
    return relax.Tuple([result, *running][: len(ctx.node.output)])


def dropout(ctx: NodeContext) -> relax.Expr:
    """Dropout, which does nothing when a model runs; the mask is all true.

    Raises:
        ValueError: training mode with a ratio other than 0, which is random. Where only the run
            knows both, it fails.
    """
    data = ctx.input(0)
    if ctx.has(2):
        mode: Any = getattr(ctx.input(2), "value", None)
        ratio: Any = getattr(ctx.input(1), "value", None) if ctx.has(1) else 0.5
        is_off = mode is not None and not mode.numpy().any()
        is_zero = not isinstance(ratio, float) and ratio is not None and not ratio.numpy().any()
        if mode is None and not is_zero:
            data = _require_no_training(ctx, data)
        elif not (is_off or is_zero):
            raise ValueError("training mode is not supported")
    if len(ctx.node.output) < 2:
        return data
    mask = relax.op.broadcast_to(constant(np.ones((), np.bool_)), relax.ShapeExpr(dims(data)))
    return relax.Tuple([data, ctx.bb.emit(mask)])


def _require_no_training(ctx: NodeContext, data: relax.Expr) -> relax.Expr:
    """The data, after a check that fails in training mode with a ratio other than 0."""
    given = [ctx.input(2), *([ctx.input(1)] if ctx.has(1) else [])]

    def is_random(mode: Any, *ratio: Any) -> Any:
        trains = mode[()] != 0
        return tirx.all(trains, ratio[0][()] != 0) if ratio else trains

    return forbidden(ctx, data, is_random, *given, name="training")


CONVERTERS: dict[str, Converter] = {
    "BatchNormalization": batch_normalization,
    "Dropout": dropout,
    "InstanceNormalization": per_channel,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
}
