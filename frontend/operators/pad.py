"""Pad: constant, reflected, repeated or wrapped borders; negative ones crop."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import GenericConst

from relaxc.frontend.operators.base import (
    Converter,
    NodeContext,
    constant,
    dims,
    dtype,
    runtime_sizes,
)
from relaxc.frontend.operators.resize import gathered
from relaxc.frontend.operators.vectors import as_vector, prefix, runtime_vector, wrapped

# What is added before and after an axis; less than 0 takes away.
Width = tuple[int, int]


def pad(ctx: NodeContext) -> relax.Expr:
    """Pad by amounts that may be symbolic or computed by the model.

    Raises:
        ValueError: an unknown mode.
    """
    data, mode = ctx.input(0), ctx.text("mode", "constant")
    shape = dims(data)
    rank = len(shape)
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ValueError(f"mode `{mode}` is unknown")
    fill = ctx.input(2) if ctx.has(2) else constant(np.zeros((), dtype(data)))
    known = ctx.static(1)
    axes = ctx.static(3) if ctx.has(3) else list(range(rank))
    if known is not None and not any(known):
        return data  # windows of attention that fit the map
    if known is not None and axes is not None:
        width = _widths(known, axes, rank)
        if mode == "constant" and min(known, default=0) >= 0:
            return _constant(ctx, data, width, fill)
        if _leaves_elements(shape, width):
            if mode == "constant":
                grown = [(max(low, 0), max(high, 0)) for low, high in width]
                return _constant(ctx, _cropped(ctx, data, width), grown, fill)
            return _repeated(ctx, data, width, mode)
    pads = as_vector(ctx, 1)
    listed = as_vector(ctx, 3) if ctx.has(3) else constant(np.arange(rank, dtype=np.int64))
    count = int(dims(listed)[0])

    def amounts(pads: Any, axes: Any, old: list[Any]) -> list[Any]:
        before, after = [], []
        for i in range(rank):
            low: Any = tirx.IntImm("int64", 0)
            high: Any = tirx.IntImm("int64", 0)
            for k in range(count):
                is_here = wrapped(axes[k], rank) == i
                low = tirx.Select(is_here, pads[k], low)
                high = tirx.Select(is_here, pads[count + k], high)
            before.append(low)
            after.append(high)
        return [*(d + a + b for d, a, b in zip(old, before, after)), *before]

    table = runtime_vector(ctx, amounts, pads, listed, shape, name="pad_amounts")
    new = runtime_sizes(ctx.bb, prefix(ctx, table, 0, 0, rank))

    def compute(x: te.Tensor, table: te.Tensor, fill: te.Tensor, new: list[Any]) -> te.Tensor:
        def element(*i: Any) -> Any:
            at = [k - table[rank + a] for a, k in enumerate(i)]
            inside = [tirx.all(p >= 0, p < n) for p, n in zip(at, x.shape)]
            if mode == "constant":
                value = fill(*([0] * len(fill.shape)))
                if not at:
                    return x()
                return tirx.if_then_else(functools.reduce(tirx.all, inside), x(*at), value)
            return x(*(_folded(p, n, mode) for p, n in zip(at, x.shape)))

        return te.compute(new, element, name="pad")

    return ctx.emit_te(compute, data, table, fill, new)


def _folded(position: Any, size: Any, mode: str) -> Any:
    """The position inside of an axis that one outside of it stands for."""
    if mode == "edge":
        return tirx.min(tirx.max(position, 0), size - 1)
    if mode == "wrap":
        return tirx.floormod(position, size)
    period = tirx.max(2 * (size - 1), 1)
    phase = tirx.floormod(position, period)
    return tirx.Select(phase < size, phase, period - phase)


def _widths(pads: list[int], axes: list[int], rank: int) -> list[Width]:
    """What is added to every axis."""
    width = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        width[axis % rank] = pads[k], pads[len(axes) + k]
    return width


def _leaves_elements(shape: list[Any], width: list[Width]) -> bool:
    """Whether axes that are padded have known sizes, and crops leave some of the old elements."""
    return all(
        isinstance(n, tirx.IntImm) and int(n) + min(low, 0) + min(high, 0) > 0
        for n, (low, high) in zip(shape, width)
        if (low, high) != (0, 0)
    )


def _cropped(ctx: NodeContext, data: relax.Expr, width: list[Width]) -> relax.Expr:
    """The data without what negative pads take away."""
    cut = [(a, -low, -high) for a, (low, high) in enumerate(width) if min(low, high) < 0]
    ends = [int(dims(data)[a]) - max(high, 0) for a, _, high in cut]
    starts = [max(low, 0) for _, low, _ in cut]
    return ctx.bb.emit(
        relax.op.strided_slice(data, [a for a, _, _ in cut], starts, ends, [1] * len(cut))
    )


def _repeated(ctx: NodeContext, data: relax.Expr, width: list[Width], mode: str) -> relax.Expr:
    """Borders of known width from the data: every axis is resized by a table of positions.

    The last axis first: the kernels for resizing take two axes in this order.
    """
    for axis, (low, high) in reversed(list(enumerate(width))):
        if (low, high) != (0, 0):
            size = int(dims(data)[axis])
            table = _folded_known(np.arange(-low, size + high), size, mode)
            data = gathered(ctx, data, constant(table), axis)
    return data


def _folded_known(positions: np.ndarray, size: int, mode: str) -> np.ndarray:
    """`_folded`, of numbers."""
    if mode == "edge":
        return np.asarray(np.clip(positions, 0, size - 1))
    if mode == "wrap":
        return np.asarray(positions % size)
    period = max(2 * (size - 1), 1)
    phase = positions % period
    return np.asarray(np.where(phase < size, phase, period - phase))


def _constant(
    ctx: NodeContext, data: relax.Expr, width: list[Width], fill: relax.Expr
) -> relax.Expr:
    """The usual case, as an operator that passes know."""
    if not isinstance(fill, GenericConst) or dtype(data) == "bool":
        before, after = zip(*width) if width else ((), ())

        def compute(x: te.Tensor, fill: te.Tensor) -> te.Tensor:
            new = [n + a + b for n, a, b in zip(x.shape, before, after)]

            def element(*i: Any) -> Any:
                at = [k - b for k, b in zip(i, before)]
                inside = [tirx.all(p >= 0, p < n) for p, n in zip(at, x.shape)]
                value = fill(*([0] * len(fill.shape)))
                return tirx.if_then_else(functools.reduce(tirx.all, inside), x(*at), value)

            return te.compute(new, element, name="pad")

        return ctx.emit_te(compute, data, fill)
    value = float(fill.value.numpy().reshape(-1)[0])
    return relax.op.nn.pad(data, [n for both in width for n in both], "constant", value)


CONVERTERS: dict[str, Converter] = {"Pad": pad}
