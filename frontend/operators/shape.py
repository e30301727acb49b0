"""Operators that take a shape, sizes or positions as a tensor: these may be symbolic."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from tvm import relax, te, tirx
from tvm.sym import Analyzer

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.broadcast import common_sizes, expand_axes, is_open
from relaxc.frontend.operators.vectors import (
    as_vector,
    chosen,
    forbidden,
    length,
    runtime_shape,
    wrapped,
)
from relaxc.frontend.shape_values import Element, is_never_negative

# Exporters write INT64_MAX or 1e9 for "to the end": no dimension is that long.
_TO_THE_END = 1 << 29


def reshape(ctx: NodeContext) -> relax.Expr:
    """Reshape: 0 copies a dimension (unless `allowzero`), -1 is what remains."""
    data, wanted = ctx.input(0), ctx.elements(1)
    old = dims(data)
    if wanted is None:
        return relax.op.reshape(data, relax.ShapeExpr(_resolved_at_run(ctx, old)))
    new: list[Element] = []
    free = -1
    for axis, dim in enumerate(wanted):
        if isinstance(dim, tirx.IntImm) and int(dim) == 0 and not ctx.attrs.get("allowzero", 0):
            dim = old[axis]
        if isinstance(dim, tirx.IntImm) and int(dim) == -1:
            free, dim = axis, tirx.IntImm("int64", 1)
        new.append(dim)
    if free >= 0:
        new[free] = _quotient(old, new, copies=not ctx.attrs.get("allowzero", 0))
    return _reshaped(data, new)


def _resolved_at_run(ctx: NodeContext, old: list[Element]) -> list[Element]:
    """The new shape, computed by the model from its second input."""
    wanted = as_vector(ctx, 1)
    copies = not ctx.attrs.get("allowzero", 0)

    def resolve(wanted: Any, old: list[Any]) -> list[Any]:
        new = []
        for i in range(length_of):
            dim = wanted[i]
            new.append(tirx.Select(dim == 0, old[i], dim) if copies and i < len(old) else dim)
        one = tirx.IntImm("int64", 1)
        others = _product([tirx.Select(dim == -1, one, dim) for dim in new])
        rest = tirx.floordiv(_product(old), tirx.max(others, one))
        return [tirx.Select(dim == -1, rest, dim) for dim in new]

    length_of = length(wanted)
    return runtime_shape(ctx, resolve, wanted, old, name="new_shape")


def flatten(ctx: NodeContext) -> relax.Expr:
    """Flatten: the dimensions before the axis become one, and so do the others."""
    data, old = ctx.input(0), dims(ctx.input(0))
    axis = int(ctx.attrs.get("axis", 1))
    if not -len(old) <= axis <= len(old):
        raise ValueError(f"axis {axis} is out of range for {len(old)} dimensions")
    axis += len(old) if axis < 0 else 0
    analyzer = Analyzer()
    new = [analyzer.simplify(_product(part)) for part in (old[:axis], old[axis:])]
    return _reshaped(data, new)


def _reshaped(data: relax.Expr, new: list[Element]) -> relax.Expr:
    if any(isinstance(dim, tirx.IntImm) and int(dim) == 0 for dim in new):
        # Relax, too, reads a 0 as "copy the dimension"; but the tensor is empty anyway.
        return relax.op.zeros(relax.ShapeExpr(new), data.ty.dtype.dtype)
    return relax.op.reshape(data, relax.ShapeExpr(new))


def _quotient(old: list[Element], new: list[Element], copies: bool) -> Element:
    """product(old) / product(new), with factors common to both cancelled first.

    Other symbols of `new` may turn out to be 0, which stands for the old dimension if `copies`.
    """
    numerator, denominator = list(old), []
    for axis, dim in enumerate(new):
        same = [k for k, d in enumerate(numerator) if not _is_number(d) and _equal(d, dim)]
        if same:
            del numerator[same[0]]
            continue
        if copies and axis < len(old) and not _is_number(dim) and not is_never_negative(dim - 1):
            new[axis] = dim = tirx.Select(dim == 0, old[axis], dim)
        denominator.append(dim)
    analyzer = Analyzer()
    total = analyzer.simplify(_product(numerator))
    parts = analyzer.simplify(_product(denominator))
    if not _is_number(parts):  # machines stop at divisions by zero
        parts = tirx.max(parts, tirx.IntImm("int64", 1))
    elif int(parts) == 0:
        raise ValueError("a dimension of -1 is not determined where another one is 0")
    return analyzer.simplify(tirx.floordiv(total, parts))


def _is_number(dim: Element) -> bool:
    return isinstance(dim, tirx.IntImm)


def _equal(a: Element, b: Element) -> bool:
    return bool(a.same_as(b)) or Analyzer().can_prove_equal(a, b)


def _product(factors: Sequence[Element]) -> Element:
    return functools.reduce(operator.mul, factors, tirx.IntImm("int64", 1))


def expand(ctx: NodeContext) -> relax.Expr:
    """Expand: broadcast in both directions."""
    data, wanted = ctx.input(0), ctx.sizes(1)
    if ctx.elements(1) is None:
        return _expand_at_run(ctx, data, wanted)
    old = dims(data)
    rank = max(len(old), len(wanted))
    one = tirx.IntImm("int64", 1)
    left = [one] * (rank - len(old)) + old
    right = [one] * (rank - len(wanted)) + wanted
    pairs = list(zip(left, right))
    open_axes = {rank - i: list(pair) for i, pair in enumerate(pairs) if is_open(pair)}
    if open_axes:
        common = dict(zip(open_axes, common_sizes(ctx, list(open_axes.values()))))
        data = expand_axes(ctx, data, common)
        pairs = [
            (common.get(rank - i, a), common.get(rank - i, b)) for i, (a, b) in enumerate(pairs)
        ]
    new = [b if isinstance(a, tirx.IntImm) and int(a) == 1 else a for a, b in pairs]
    return relax.op.broadcast_to(data, relax.ShapeExpr(new))


def _expand_at_run(ctx: NodeContext, data: relax.Expr, wanted: list[Element]) -> relax.Expr:
    """Expand to sizes of which each may be 1 or not."""
    old, one = dims(data), tirx.IntImm("int64", 1)
    rank = max(len(old), len(wanted))
    left = [one] * (rank - len(old)) + old
    right = [one] * (rank - len(wanted)) + wanted

    def larger(left: list[Any], right: list[Any]) -> list[Any]:
        return [tirx.Select(a == 1, b, a) for a, b in zip(left, right)]

    new = runtime_shape(ctx, larger, left, right, name="expanded_shape")

    def compute(x: te.Tensor, new: list[Any]) -> te.Tensor:
        def element(*i: Any) -> Any:
            inner = i[rank - len(x.shape) :]
            zero = tirx.IntImm("int64", 0)
            return x(*(tirx.Select(n == 1, zero, k) for n, k in zip(x.shape, inner)))

        return te.compute(new, element, name="expand")

    return ctx.emit_te(compute, data, new)


def constant_of_shape(ctx: NodeContext) -> relax.Expr:
    """ConstantOfShape with a symbolic shape."""
    wanted = ctx.sizes(0)
    tensor = ctx.attrs.get("value")
    fill = np.zeros(1, np.float32) if tensor is None else onnx.numpy_helper.to_array(tensor)
    value = relax.const(fill.reshape(()), fill.dtype.name)
    return relax.op.full(relax.ShapeExpr(wanted), value, fill.dtype.name)


def range_(ctx: NodeContext) -> relax.Expr:
    """Range over integers that may be symbolic."""
    bounds = [ctx.elements(i) for i in range(3)]
    dtype = ctx.input(0).ty.dtype.dtype
    if any(b is None for b in bounds):
        return _range_at_run(ctx)
    start, end, step = (b[0] for b in bounds if b is not None)
    result = relax.op.arange(start, end, step, "int64")
    return result if dtype == "int64" else relax.op.astype(result, dtype)


def _range_at_run(ctx: NodeContext) -> relax.Expr:
    """Range of numbers that the model computes."""
    is_float = "float" in dtype(ctx.input(0))

    def count(start: Any, limit: Any, delta: Any) -> list[Any]:
        a, b, d = start(), limit(), delta()
        if is_float:
            steps = tirx.ceil((b.astype("float64") - a) / d.astype("float64")).astype("int64")
        else:
            a, b, d = (v.astype("int64") for v in (a, b, d))
            up = tirx.floordiv(b - a + d - 1, tirx.max(d, 1))
            steps = tirx.Select(d > 0, up, tirx.floordiv(a - b - d - 1, tirx.max(-d, 1)))
        return [tirx.max(steps, tirx.IntImm("int64", 0))]

    bounds = [ctx.bb.emit(relax.op.reshape(ctx.input(i), [])) for i in range(3)]
    (size,) = runtime_shape(ctx, count, *bounds, name="range_length")

    def compute(start: te.Tensor, delta: te.Tensor, size: Any) -> te.Tensor:
        return te.compute((size,), lambda i: start() + delta() * i.astype(start.dtype))

    return ctx.emit_te(compute, bounds[0], bounds[2], size)


def slice_(ctx: NodeContext) -> relax.Expr:
    """Slice with starts and ends that may be symbolic; steps and axes are constant."""
    data = ctx.input(0)
    starts, ends = ctx.elements(1), ctx.elements(2)
    axes = ctx.static(3) if ctx.has(3) else list(range(len(starts or ())))
    steps = ctx.static(4) if ctx.has(4) else [1] * len(starts or ())
    if starts is None or ends is None or axes is None or steps is None:
        raise ValueError("starts, ends, axes or steps are computed from data: not supported")
    shape = dims(data)
    axes = [a % len(shape) for a in axes]
    low = [_start(s, shape[a], step) for s, a, step in zip(starts, axes, steps)]
    high = [_position(e, shape[a], step) for e, a, step in zip(ends, axes, steps)]
    for index, step in enumerate(steps):
        if step < 0:
            low[index], high[index] = _reversed(low[index], high[index], -step)
        elif not _is_ordered(low[index], high[index]):
            high[index] = _max(low[index], high[index])
    forward = [abs(step) for step in steps]
    result = relax.op.strided_slice(
        data, axes=axes, begin=low, end=high, strides=forward, assume_inbound=True
    )
    for axis, step in zip(axes, steps):
        if step < 0:
            result = ctx.bb.emit(relax.op.flip(result, axis))
    return result


def _reversed(start: Element, stop: Element, step: int) -> tuple[Element, Element]:
    """Bounds of the forward slice over `start, start - step, ...` down to above `stop`.

    TVM miscounts the elements of slices with negative steps (0.27), so none are emitted.
    """
    count = tirx.floordiv(start - stop + (step - 1), tirx.IntImm("int64", step))
    count = _max(count, tirx.IntImm("int64", 0))
    first = Analyzer().simplify(start - (count - 1) * step)
    # Of no elements, `first` lies behind `start`.
    return first, _max(start + 1, first)


def _is_ordered(low: Element, high: Element) -> bool:
    return is_never_negative(high - low)


def _max(a: Element, b: Element) -> Element:
    return Analyzer().simplify(tirx.max(a, b))


def _start(position: Element, dim: Element, step: int) -> Element:
    """A start: a backward slice begins at the first element at the latest, unless there is none."""
    place = _position(position, dim, step)
    if step > 0:
        return place
    return Analyzer().simplify(tirx.min(tirx.max(place, tirx.IntImm("int64", 0)), dim - 1))


def _position(position: Element, dim: Element, step: int) -> Element:
    """A start or end as ONNX means it: negative counts from the end, then clamped to the axis."""
    first, last = (0, dim) if step > 0 else (-1, dim - 1)
    if isinstance(position, tirx.IntImm):
        if int(position) >= _TO_THE_END:
            return Analyzer().simplify(last)
        if int(position) <= -_TO_THE_END:
            return tirx.IntImm("int64", first)
        if int(position) < 0:
            position = dim + position
    low = tirx.IntImm("int64", first)
    return Analyzer().simplify(tirx.max(tirx.min(position, last), low))


def squeeze(ctx: NodeContext) -> relax.Expr:
    """Squeeze; a symbolic dimension that must be 1 is checked when the model runs."""
    data = ctx.input(0)
    shape = dims(data)
    axes = ctx.static(1) if ctx.has(1) else None
    if ctx.has(1) and axes is None:
        return _squeeze_at_run(ctx, data, shape)
    if axes is None:
        axes = [i for i, d in enumerate(shape) if isinstance(d, tirx.IntImm) and int(d) == 1]
        open_dims = [d for d in shape if not isinstance(d, tirx.IntImm)]
        if open_dims:  # the rank of the result must be known: these stay, and must not be 1

            def is_one(sizes: list[Any]) -> Any:
                return functools.reduce(tirx.any, [d == 1 for d in sizes])

            data = forbidden(ctx, data, is_one, open_dims, name="squeezed_dimensions")
    dropped = {axis % len(shape) for axis in axes}
    if any(not isinstance(shape[axis], tirx.IntImm) for axis in dropped):
        one = tirx.IntImm("int64", 1)
        known = [one if axis in dropped else d for axis, d in enumerate(shape)]
        data = ctx.bb.match_cast(data, relax.TensorType(known, data.ty.dtype.dtype))
    return relax.op.squeeze(data, sorted(dropped))


def _squeeze_at_run(ctx: NodeContext, data: relax.Expr, shape: list[Element]) -> relax.Expr:
    """Squeeze axes that the model computes; how many is known."""
    axes, rank = as_vector(ctx, 1), len(shape)
    count = length(axes)

    def kept(axes: Any, old: list[Any]) -> list[Any]:
        drops = [
            functools.reduce(tirx.any, [wrapped(axes[k], rank) == i for k in range(count)])
            for i in range(rank)
        ]
        new = []
        for j in range(rank - count):
            dim: Any = tirx.IntImm("int64", 0)
            for i, size in enumerate(old):
                before = sum((tirx.Select(d, 0, 1) for d in drops[:i]), tirx.IntImm("int32", 0))
                dim = tirx.Select(tirx.all(tirx.Not(drops[i]), before == j), size, dim)
            new.append(dim)
        return new

    if count == 0 or count == rank:
        return data if count == 0 else relax.op.reshape(data, relax.ShapeExpr([]))
    new = runtime_shape(ctx, kept, axes, shape, name="squeezed_shape")
    return relax.op.reshape(data, relax.ShapeExpr(new))


def unsqueeze(ctx: NodeContext) -> relax.Expr:
    """Unsqueeze at axes that may be computed by the model; a scalar is one axis."""
    data = ctx.input(0)
    shape = dims(data)
    listed = ctx.static(1) if ctx.has(1) else ctx.attrs.get("axes")
    count = length(as_vector(ctx, 1)) if listed is None else len(listed)
    rank = len(shape) + count
    if listed is not None:
        axes = sorted(int(a) % rank for a in listed)
        return relax.op.expand_dims(data, axes) if axes else data

    def widened(axes: Any, old: list[Any]) -> list[Any]:
        is_new = [
            functools.reduce(tirx.any, [wrapped(axes[k], rank) == i for k in range(count)])
            for i in range(rank)
        ]
        new, one = [], tirx.IntImm("int64", 1)
        for i in range(rank):
            before = sum((tirx.Select(n, 0, 1) for n in is_new[:i]), tirx.IntImm("int32", 0))
            new.append(tirx.Select(is_new[i], one, chosen(before, old, one)))
        return new

    new = runtime_shape(ctx, widened, as_vector(ctx, 1), shape, name="unsqueezed_shape")
    return relax.op.reshape(data, relax.ShapeExpr(new))


CONVERTERS: dict[str, Converter] = {
    "ConstantOfShape": constant_of_shape,
    "Expand": expand,
    "Flatten": flatten,
    "Range": range_,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
}
