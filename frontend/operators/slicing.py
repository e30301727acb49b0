"""Slice and Split, by positions and sizes that may be computed when the model runs."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, dims, runtime_sizes
from relaxc.frontend.operators.shape import slice_ as known_slice
from relaxc.frontend.operators.vectors import (
    as_vector,
    length,
    prefix,
    runtime_vector,
    wrapped,
)
from relaxc.frontend.shape_values import Element


def slice_(ctx: NodeContext) -> relax.Expr:
    """Slice: with bounds that are known as expressions, or else computed by the model."""
    known = [ctx.elements(i) if ctx.has(i) else [] for i in (1, 2)]
    fixed = [ctx.static(i) if ctx.has(i) else [] for i in (3, 4)]
    if all(v is not None for v in (*known, *fixed)):
        return known_slice(ctx)
    data = ctx.input(0)
    shape = dims(data)
    rank = len(shape)
    starts, ends = as_vector(ctx, 1), as_vector(ctx, 2)
    count = length(starts)
    axes = as_vector(ctx, 3) if ctx.has(3) else starts
    steps = as_vector(ctx, 4) if ctx.has(4) else starts

    def bounds(start: Any, end: Any, axis: Any, step: Any, old: list[Any]) -> list[Any]:
        found: dict[str, list[Any]] = {"begin": [], "stride": [], "size": []}
        one, zero = tirx.IntImm("int64", 1), tirx.IntImm("int64", 0)
        for i, dim in enumerate(old):
            begin, stride, size = zero, one, dim
            for k in range(count):
                is_here = wrapped(axis[k], rank) == i if ctx.has(3) else tirx.const(k == i, "bool")
                by = step[k] if ctx.has(4) else one
                first, last = _clamped(start[k], end[k], by, dim)
                begin = tirx.Select(is_here, first, begin)
                stride = tirx.Select(is_here, by, stride)
                size = tirx.Select(is_here, _count(first, last, by), size)
            for name, value in (("begin", begin), ("stride", stride), ("size", size)):
                found[name].append(value)
        return [*found["size"], *found["begin"], *found["stride"]]

    table = runtime_vector(ctx, bounds, starts, ends, axes, steps, shape, name="slice_bounds")
    new = runtime_sizes(ctx.bb, prefix(ctx, table, 0, 0, rank))

    def compute(x: te.Tensor, table: te.Tensor, new: list[Any]) -> te.Tensor:
        def element(*i: Any) -> Any:
            return x(*(table[rank + a] + at * table[2 * rank + a] for a, at in enumerate(i)))

        return te.compute(new, element, name="slice")

    return ctx.emit_te(compute, data, table, new)


def _clamped(start: Any, end: Any, step: Any, dim: Any) -> tuple[Any, Any]:
    low = tirx.Select(step > 0, tirx.IntImm("int64", 0), tirx.IntImm("int64", -1))
    high = tirx.Select(step > 0, dim, dim - 1)
    zero = tirx.IntImm("int64", 0)
    first = tirx.min(tirx.max(wrapped(start, dim), zero), high)
    last = tirx.min(tirx.max(wrapped(end, dim), low), dim)
    return first, last


def _count(first: Any, last: Any, step: Any) -> Any:
    forward = tirx.floordiv(last - first + step - 1, tirx.max(step, 1))
    backward = tirx.floordiv(first - last - step - 1, tirx.max(-step, 1))
    return tirx.max(tirx.Select(step > 0, forward, backward), tirx.IntImm("int64", 0))


def split(ctx: NodeContext) -> relax.Expr:
    """Split into parts of given sizes, or into `num_outputs` parts of which the last is shorter."""
    data, outputs = ctx.input(0), len(ctx.node.output)
    shape = dims(data)
    axis = int(ctx.attrs.get("axis", 0)) % len(shape)
    sizes = ctx.sizes(1) if ctx.has(1) else _equal_parts(shape[axis], outputs)
    if len(sizes) != outputs:
        raise ValueError(f"{len(sizes)} sizes are given for {outputs} outputs")
    start: Element = tirx.IntImm("int64", 0)
    parts = []
    if all(isinstance(n, tirx.IntImm) for n in (*sizes, shape[axis])):
        if sum(int(n) for n in sizes) != int(shape[axis]):
            raise ValueError("the sizes do not add up to the dimension")
        for size in sizes:
            stop = tirx.IntImm("int64", int(start) + int(size))
            part = relax.op.strided_slice(
                data, axes=[axis], begin=[start], end=[stop], assume_inbound=True
            )
            parts.append(ctx.bb.emit(part))
            start = stop
        return relax.Tuple(parts)
    for size in sizes:
        parts.append(prefix(ctx, data, axis, start, size))
        start = start + size
    return relax.Tuple(parts)


def _equal_parts(dim: Element, parts: int) -> list[Element]:
    if isinstance(dim, tirx.IntImm):
        whole = -(-int(dim) // parts)
        sizes = [min(whole, max(int(dim) - whole * k, 0)) for k in range(parts)]
        return [tirx.IntImm("int64", n) for n in sizes]
    whole = tirx.floordiv(dim + (parts - 1), tirx.IntImm("int64", parts))
    return [whole] * (parts - 1) + [dim - whole * (parts - 1)]


CONVERTERS: dict[str, Converter] = {"Slice": slice_, "Split": split}
