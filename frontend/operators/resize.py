"""Resize, axis by axis: a table of source positions and weights, then a weighted sum.

Sizes and scales may be computed when the model runs. The formulas are those of ONNX's reference
implementation (onnx/reference/ops/op_resize.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import GenericConst

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.vectors import as_vector, length, runtime_shape
from relaxc.layout import RESIZED_AXIS

_CUBIC_A = -0.75


def resize(ctx: NodeContext) -> relax.Expr:
    """Resize and its predecessor Upsample, in every mode.

    Raises:
        ValueError: an unknown mode.
    """
    data, shape = ctx.input(0), dims(ctx.input(0))
    rank = len(shape)
    listed = ctx.attrs.get("axes")
    axes = list(range(rank)) if listed is None else [int(a) % rank for a in listed]
    has_sizes = ctx.has(3)
    policy = ctx.text("keep_aspect_ratio_policy", "stretch")
    source = as_vector(ctx, 3) if has_sizes else ctx.input(2 if len(ctx.inputs) > 2 else 1)
    if length(source) != len(axes):
        raise ValueError(f"{length(source)} sizes or scales are given for {len(axes)} axes")
    scales = _scales(ctx, source, shape, axes, has_sizes, policy)
    new = _sizes(ctx, source, shape, axes, has_sizes, policy)
    mode, kind = ctx.text("mode", "nearest"), dtype(data)
    if mode not in ("nearest", "linear", "cubic"):
        raise ValueError(f"mode `{mode}` is unknown")
    result = data
    if mode != "nearest" and kind != "float32":
        result = ctx.bb.emit(relax.op.astype(data, "float32"))
    for place, axis in _in_order(axes, shape, new):
        if _is_identity(ctx, source, shape[axis], place, has_sizes):
            continue
        result = _along(ctx, result, axis, place, len(axes), new[axis], scales)
    if dtype(result) == kind:
        return result
    if "int" in kind:
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        rounded = ctx.bb.emit(relax.op.round(result))
        result = ctx.bb.emit(relax.op.clip(rounded, low, high))
    return relax.op.astype(result, kind)


def _in_order(axes: list[int], old: list[Any], new: list[Any]) -> list[tuple[int, int]]:
    """Axes with their places, so that the last one, along which elements are gathered, is short.

    Those that shrink come first, in order; those that grow follow, the last one first.
    """

    def grows(axis: int) -> bool:
        known = isinstance(old[axis], tirx.IntImm) and isinstance(new[axis], tirx.IntImm)
        return known and int(new[axis]) > int(old[axis])

    pairs = list(enumerate(axes))
    growing = sorted((p for p in pairs if grows(p[1])), key=lambda p: -p[1])
    return [p for p in pairs if not grows(p[1])] + growing


def _is_identity(
    ctx: NodeContext, source: relax.Expr, dim: Any, place: int, has_sizes: bool
) -> bool:
    """Whether an axis is known to keep its size, and its elements with it."""
    if ctx.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return False
    if not isinstance(source, GenericConst):
        return False
    value = source.value.numpy().reshape(-1)[place]
    if has_sizes:
        return isinstance(dim, tirx.IntImm) and int(dim) == int(value)
    return float(value) == 1.0


def _common(ratios: list[Any], policy: str) -> Any:
    """The scale that keeps the aspect ratio."""
    pick = tirx.min if policy == "not_larger" else tirx.max
    result = ratios[0]
    for ratio in ratios[1:]:
        result = pick(result, ratio)
    return result


def _scales(
    ctx: NodeContext,
    source: relax.Expr,
    shape: list[Any],
    axes: list[int],
    has_sizes: bool,
    policy: str,
) -> relax.Expr:
    """The scale of every listed axis, as float64."""

    def compute(given: te.Tensor, old: list[Any]) -> te.Tensor:
        def ratio(k: int) -> Any:
            value = given[k].astype("float64")
            return value / old[axes[k]].astype("float64") if has_sizes else value

        ratios = [ratio(k) for k in range(len(axes))]
        if has_sizes and policy != "stretch":
            ratios = [_common(ratios, policy)] * len(axes)

        def element(i: Any) -> Any:
            result = tirx.const(1.0, "float64")
            for k, value in enumerate(ratios):
                result = tirx.Select(i == k, value, result)
            return result

        return te.compute((len(axes),), element, name="scales")

    # Without the shape, where it is not needed: open dimensions would keep it from being folded.
    return ctx.emit_te(compute, source, shape if has_sizes else [], name="resize_scales")


def _sizes(
    ctx: NodeContext,
    source: relax.Expr,
    shape: list[Any],
    axes: list[int],
    has_sizes: bool,
    policy: str,
) -> list[Any]:
    """The new shape, as numbers where they are known."""
    known = source.value.numpy().reshape(-1) if isinstance(source, GenericConst) else None
    old = [shape[a] for a in axes]
    if known is not None and not has_sizes and _are_known(old, known):
        found: list[Any] = [
            tirx.IntImm("int64", int(math.floor(np.float32(int(d)) * s)))
            if isinstance(d, tirx.IntImm)
            else d
            for d, s in zip(old, known)
        ]
    elif known is not None and all(isinstance(d, tirx.IntImm) for d in old):
        sizes = [int(d) for d in old]
        if policy == "stretch":
            new = [int(s) for s in known]
        else:
            pick = min if policy == "not_larger" else max
            scale = pick(s / d for s, d in zip(known, sizes))
            new = [int(math.floor(scale * d + 0.5)) for d in sizes]
        found = [tirx.IntImm("int64", n) for n in new]
    elif has_sizes and policy == "stretch" and ctx.elements(3) is not None:
        found = ctx.sizes(3)
    else:

        def compute(given: Any, old: list[Any]) -> list[Any]:
            if not has_sizes:
                scaled = [d.astype("float32") * given[k] for k, d in enumerate(old)]
                return [tirx.floor(v).astype("int64") for v in scaled]
            if policy == "stretch":
                return [given[k] for k in range(len(old))]
            ratios = [given[k].astype("float64") / d.astype("float64") for k, d in enumerate(old)]
            scale = _common(ratios, policy)
            half = tirx.const(0.5, "float64")
            return [tirx.floor(scale * d.astype("float64") + half).astype("int64") for d in old]

        found = runtime_shape(ctx, compute, source, old, name="resize_shape")
    new_shape = list(shape)
    for axis, size in zip(axes, found):
        new_shape[axis] = size
    return new_shape


def _are_known(old: list[Any], scales: np.ndarray) -> bool:
    """Whether an axis of open size, such as the batch, keeps it."""
    return all(isinstance(d, tirx.IntImm) or float(s) == 1.0 for d, s in zip(old, scales))


def _along(
    ctx: NodeContext,
    data: relax.Expr,
    axis: int,
    place: int,
    count: int,
    size: Any,
    scales: relax.Expr,
) -> relax.Expr:
    """Resize one axis."""
    mode = ctx.text("mode", "nearest")
    transform = ctx.text("coordinate_transformation_mode", "half_pixel")
    if ctx.node.op_type == "Upsample":
        transform = "asymmetric"
    crops = transform == "tf_crop_and_resize"
    roi = ctx.input(1) if crops else scales
    old = dims(data)[axis]

    def origin(o: Any, scales: Any, roi: Any, size: Any, old: Any) -> Any:
        bounds = (roi[place], roi[count + place]) if crops else None
        return _origin(o, scales[place], bounds, size, old, transform)

    def position(scales: te.Tensor, roi: te.Tensor, size: Any, old: Any) -> te.Tensor:
        return te.compute((size,), lambda o: origin(o, scales, roi, size, old), name="position")

    at = ctx.emit_te(position, scales, roi, size, old, name="resize_positions")
    if mode == "nearest":
        result = _nearest(ctx, data, axis, place, at, scales)
    else:
        result = _weighted(ctx, data, axis, place, at, scales, mode)
    if not crops:
        return result
    outside = float(ctx.attrs.get("extrapolation_value", 0.0))

    def extrapolate(x: te.Tensor, at: te.Tensor, old: Any) -> te.Tensor:
        def element(*i: Any) -> Any:
            p = at[i[axis]]
            is_outside = tirx.any(p < 0, p > (old - 1).astype("float64"))
            return tirx.Select(is_outside, tirx.const(outside, dtype(result)), x(*i))

        return te.compute(x.shape, element, name="extrapolate")

    return ctx.emit_te(extrapolate, result, at, old, name="extrapolate")


def _origin(o: Any, scale: Any, roi: Any, size: Any, old: Any, transform: str) -> Any:
    """Where the output's position `o` lies on the input's axis."""
    x, width = o.astype("float64"), old.astype("float64")
    one, half = tirx.const(1.0, "float64"), tirx.const(0.5, "float64")
    new = scale * width
    steps = tirx.Select(new == one, one, new - one)
    if transform == "align_corners":
        return tirx.Select(new == one, tirx.const(0.0, "float64"), x * (width - one) / steps)
    if transform == "asymmetric":
        return x / scale
    if transform == "tf_crop_and_resize":
        start, stop = (v.astype("float64") for v in roi)
        span = (stop - start) * (width - one)
        return tirx.Select(new == one, span * half, x * span / steps) + start * (width - one)
    centered = (x + half) / scale - half
    if transform == "half_pixel":
        return centered
    if transform == "tf_half_pixel_for_nn":
        return (x + half) / scale
    if transform == "pytorch_half_pixel":
        return tirx.Select(new == one, -half, centered)
    if transform == "half_pixel_symmetric":
        adjustment = size.astype("float64") / new
        return width / 2 * (one - adjustment) + centered
    raise ValueError(f"coordinate transformation `{transform}` is unknown")


def _nearest(
    ctx: NodeContext,
    data: relax.Expr,
    axis: int,
    place: int,
    at: relax.Expr,
    scales: relax.Expr,
) -> relax.Expr:
    rounding = ctx.text("nearest_mode", "round_prefer_floor")
    if ctx.node.op_type == "Upsample":
        rounding = "floor"
    half = tirx.const(0.5, "float64")
    functions: dict[str, Callable[[Any, Any], Any]] = {
        "round_prefer_floor": lambda p, _: tirx.ceil(p - half),
        "round_prefer_ceil": lambda p, _: tirx.floor(p + half),
        "floor": lambda p, _: tirx.floor(p),
        "ceil": lambda p, _: tirx.ceil(p),
        # Of models older than the attribute: see frontend/legacy.py.
        "simple": lambda p, s: tirx.Select(s < 1, tirx.ceil(p), tirx.floor(p)),
    }
    if rounding not in functions:
        raise ValueError(f"nearest mode `{rounding}` is unknown")

    def index(at: te.Tensor, scales: te.Tensor, old: Any) -> te.Tensor:
        def element(o: Any) -> Any:
            k = functions[rounding](at[o], scales[place]).astype("int64")
            return tirx.max(tirx.min(k, old - 1), tirx.IntImm("int64", 0))

        return te.compute(at.shape, element, name="nearest")

    positions = ctx.emit_te(index, at, scales, dims(data)[axis], name="resize_indices")
    return gathered(ctx, data, positions, axis)


def gathered(ctx: NodeContext, data: relax.Expr, positions: relax.Expr, axis: int) -> relax.Expr:
    """The elements at these positions of an axis, which must be inside of it."""

    def compute(x: te.Tensor, index: te.Tensor) -> te.Tensor:
        shape = [*list(x.shape)[:axis], index.shape[0], *list(x.shape)[axis + 1 :]]
        return te.compute(
            shape, lambda *i: x(*i[:axis], index[i[axis]], *i[axis + 1 :]), name="resize"
        )

    return _described(ctx, ctx.emit_te(compute, data, positions), axis)


def _weighted(
    ctx: NodeContext,
    data: relax.Expr,
    axis: int,
    place: int,
    at: relax.Expr,
    scales: relax.Expr,
    mode: str,
) -> relax.Expr:
    """Sum over the taps of a linear or cubic filter; wider ones against aliasing."""
    radius = 1 if mode == "linear" else 2
    antialias = bool(ctx.attrs.get("antialias", 0))
    exclude = bool(ctx.attrs.get("exclude_outside", 0))
    a = float(ctx.attrs.get("cubic_coeff_a", _CUBIC_A))
    old = dims(data)[axis]

    def stretch(scales: Any) -> Any:
        one = tirx.const(1.0, "float64")
        return tirx.min(scales[place], one) if antialias else one

    taps: Any = 2 * radius
    if antialias:

        def footprint(scales: Any) -> list[Any]:
            reach = tirx.const(float(radius), "float64") / stretch(scales)
            return [2 * tirx.ceil(reach).astype("int64")]

        (taps,) = runtime_shape(ctx, footprint, scales, name="resize_taps")

    def weights(at: te.Tensor, scales: te.Tensor, taps: Any, old: Any) -> te.Tensor:
        def element(o: Any, t: Any) -> Any:
            first = tirx.floor(at[o]).astype("int64") - tirx.floordiv(_int(taps), 2) + 1
            k = first + t
            distance = tirx.abs(k.astype("float64") - at[o]) * stretch(scales)
            weight = _filter(distance, mode, a)
            if exclude:
                inside = tirx.all(k >= 0, k < old)
                weight = tirx.Select(inside, weight, tirx.const(0.0, "float64"))
            return weight.astype("float32")

        return te.compute((at.shape[0], taps), element, name="weights")

    table = ctx.emit_te(weights, at, scales, taps, old, name="resize_weights")
    if antialias or exclude:
        total = ctx.bb.emit(relax.op.sum(table, [1], True))
        table = ctx.bb.emit(relax.op.divide(table, total))

    # Tables of their own, which become constants where the scales are: the sum over the taps then
    # only loads, and a row of outputs is as fast as its gathers.
    def places(at: te.Tensor, taps: Any, old: Any) -> te.Tensor:
        def element(o: Any, t: Any) -> Any:
            k = tirx.floor(at[o]).astype("int64") - tirx.floordiv(_int(taps), 2) + 1 + t
            return tirx.max(tirx.min(k, old - 1), tirx.IntImm("int64", 0)).astype("int32")

        return te.compute((at.shape[0], taps), element, name="places")

    def compute(x: te.Tensor, table: te.Tensor, sources: te.Tensor) -> te.Tensor:
        shape = [*list(x.shape)[:axis], table.shape[0], *list(x.shape)[axis + 1 :]]
        t = te.reduce_axis((0, table.shape[1]), name="t")

        def element(*i: Any) -> Any:
            k = sources[i[axis], t].astype("int64")
            return te.sum(x(*i[:axis], k, *i[axis + 1 :]) * table[i[axis], t], axis=t)

        return te.compute(shape, element, name="resize")

    sources = ctx.emit_te(places, at, taps, old, name="resize_places")
    return _described(ctx, ctx.emit_te(compute, data, table, sources), axis)


def _described(ctx: NodeContext, result: relax.Expr, axis: int) -> relax.Expr:
    """The result of a loop nest that says which axis it resizes, for kernels to take its place."""
    gvar = ctx.bb.lookup_binding(result).args[0]
    func = ctx.bb.get()[gvar]
    ctx.bb.update_func(gvar, func.with_attr(RESIZED_AXIS, axis))
    return result


def _int(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def _filter(d: Any, mode: str, a: float) -> Any:
    """The weight of a tap at a distance of `d` steps."""

    def number(value: float) -> Any:
        return tirx.const(float(value), "float64")

    if mode == "linear":
        return tirx.max(number(1) - d, number(0))
    near = (number(a + 2) * d - number(a + 3)) * d * d + number(1)
    far = ((number(a) * d - number(5 * a)) * d + number(8 * a)) * d - number(4 * a)
    return tirx.Select(d <= number(1), near, tirx.Select(d < number(2), far, number(0)))


CONVERTERS: dict[str, Converter] = {"Resize": resize, "Upsample": resize}
