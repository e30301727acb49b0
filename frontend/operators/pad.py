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
from relaxc.frontend.operators.vectors import as_vector, prefix, runtime_vector, wrapped


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
    if known is not None and axes is not None and min(known, default=0) >= 0 and mode == "constant":
        return _constant(ctx, data, known, [a % rank for a in axes], fill)
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


def _constant(
    ctx: NodeContext, data: relax.Expr, pads: list[int], axes: list[int], fill: relax.Expr
) -> relax.Expr:
    """The usual case, as an operator that passes know."""
    rank = len(dims(data))
    width = [0] * (2 * rank)
    for k, axis in enumerate(axes):
        width[2 * axis], width[2 * axis + 1] = pads[k], pads[len(axes) + k]
    if not isinstance(fill, GenericConst) or dtype(data) == "bool":
        before, after = width[::2], width[1::2]

        def compute(x: te.Tensor, fill: te.Tensor) -> te.Tensor:
            new = [n + a + b for n, a, b in zip(x.shape, before, after)]

            def element(*i: Any) -> Any:
                at = [k - b for k, b in zip(i, before)]
                inside = [tirx.all(p >= 0, p < n) for p, n in zip(at, x.shape)]
                value = fill(*([0] * len(fill.shape)))
                return tirx.if_then_else(functools.reduce(tirx.all, inside), x(*at), value)

            return te.compute(new, element, name="pad")

        return ctx.emit_te(compute, data, fill)
    return relax.op.nn.pad(data, width, "constant", float(fill.value.numpy().reshape(-1)[0]))


CONVERTERS: dict[str, Converter] = {"Pad": pad}
