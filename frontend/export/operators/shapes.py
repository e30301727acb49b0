"""Operators that move numbers, or make some."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import relax, tirx
from tvm.ir import GenericConst

from relaxc.frontend.export.site import (
    CannotExport,
    Site,
    Translator,
    dims_of,
    dtype_of,
    numbers,
)

# A slice that begins here, going backwards, begins at the end.
_FAR = np.iinfo(np.int64)


def _reshape(site: Site) -> list[str]:
    """A dimension that cannot be told from others is -1; those that stay are 0."""
    source, result = site.call.args[0], dims_of(site.call)
    before = dims_of(source)
    dims: list[Any] = []
    for axis, dim in enumerate(result):
        stays = axis < len(before) and str(dim) == str(before[axis])
        is_symbolic = not isinstance(dim, tirx.IntImm)
        dims.append(0 if stays and is_symbolic else dim)
    unknown = [i for i, dim in enumerate(dims) if not isinstance(dim, int | tirx.IntImm)]
    has_nothing = any(isinstance(dim, tirx.IntImm) and int(dim) == 0 for dim in dims)
    if has_nothing:
        return [site.emit("Reshape", site.input(0), site.shape(result), allowzero=1)]
    if len(unknown) == 1:
        dims[unknown[0]] = -1
    return [site.emit("Reshape", site.input(0), site.shape(dims))]


def _expand(site: Site) -> list[str]:
    return [site.emit("Expand", site.input(0), site.shape(dims_of(site.call)))]


def _transpose(site: Site) -> list[str]:
    ndim = site.call.args[0].ty.ndim
    axes = site.attrs.axes
    order = list(range(ndim))[::-1] if axes is None else [a % ndim for a in numbers(axes)]
    return [site.emit("Transpose", site.input(0), perm=order)]


def _squeeze(site: Site) -> list[str]:
    axes = site.attrs.axis
    if axes is None:
        dims = dims_of(site.call.args[0])
        axes = [a for a, d in enumerate(dims) if isinstance(d, tirx.IntImm) and int(d) == 1]
    return [site.emit("Squeeze", site.input(0), site.integers(numbers(axes), "axes"))]


def _unsqueeze(site: Site) -> list[str]:
    axes = site.integers(numbers(site.attrs.axis), "axes")
    return [site.emit("Unsqueeze", site.input(0), axes)]


def _concat(site: Site) -> list[str]:
    fields = getattr(site.call.args[0], "fields", None)
    if fields is None:
        raise CannotExport("it joins a tuple that another node makes")
    axis = int(site.attrs.axis or 0)
    return [site.emit("Concat", *map(site.tensor, fields), axis=axis)]


def _split(site: Site) -> list[str]:
    axis = int(site.attrs.axis)
    parts = [field.shape.values[axis] for field in site.call.ty.fields]
    sizes = site.integers(numbers(parts), "sizes")
    return site.graph.node("Split", [site.input(0), sizes], site.name, len(parts), axis=axis)


def _slice(site: Site) -> list[str]:
    data, axes, begins, ends = site.call.args[:4]
    count = len(axes.fields)
    steps = site.call.args[4].fields if len(site.call.args) > 4 else [1] * count
    inputs = [
        site.shape(list(values.fields), role)
        for values, role in ((begins, "starts"), (ends, "ends"))
    ]
    which = site.integers(numbers(axes), "axes")
    strides = site.integers(numbers(steps), "steps")
    return [site.emit("Slice", site.tensor(data), *inputs, which, strides)]


def _flip(site: Site) -> list[str]:
    values = {"starts": -1, "ends": _FAR.min, "axes": int(site.attrs.axis), "steps": -1}
    inputs = [site.integers([value], role) for role, value in values.items()]
    return [site.emit("Slice", site.input(0), *inputs)]


def _take(site: Site) -> list[str]:
    """Indices were checked at import, where the model's own operator refuses bad ones."""
    data, axis = site.input(0, "table"), site.attrs.axis
    if axis is None:
        data, axis = site.emit("Reshape", data, site.integers([-1], "flat")), 0
    return [site.emit("Gather", data, site.input(1), axis=int(axis))]


def _pad(site: Site) -> list[str]:
    widths = numbers(site.attrs.pad_width)
    mode = str(site.attrs.pad_mode)
    if mode not in ("constant", "reflect", "edge"):
        raise CannotExport(f"it pads by `{mode}`")
    pads = site.integers([*widths[::2], *widths[1::2]], "pads")
    inputs = [site.input(0), pads]
    if mode == "constant":
        inputs.append(site.scalar(float(site.attrs.pad_value), dtype_of(site.call), "value"))
    return [site.emit("Pad", *inputs, mode=mode)]


def _tile(site: Site) -> list[str]:
    repeats, ndim = numbers(site.attrs.repeats), site.call.args[0].ty.ndim
    if len(repeats) > ndim:
        raise CannotExport("its result has more axes")
    whole = [1] * (ndim - len(repeats)) + repeats
    return [site.emit("Tile", site.input(0), site.integers(whole, "repeats"))]


def _range(site: Site) -> list[str]:
    dtype = dtype_of(site.call)
    if dtype not in ("int64", "int32"):
        raise CannotExport(f"it counts in {dtype}")
    names = [
        site.dimensions.scalar(arg, f"{site.name}.{role}")
        for arg, role in zip(site.call.args, ("start", "limit", "step"), strict=True)
    ]
    counted = site.emit("Range", *names)
    return [counted if dtype == "int64" else site.emit("Cast", counted, to=6)]


def _filled(number: float | None) -> Translator:
    """One number everywhere: a given one, or that of the second argument."""

    def translate(site: Site) -> list[str]:
        dims, dtype = dims_of(site.call), dtype_of(site.call)
        if number is not None:
            value = np.array([number], dtype)
        elif isinstance(site.call.args[1], GenericConst):
            value = np.asarray(site.call.args[1].value.numpy(), dtype).reshape(1)
        else:
            return [site.emit("Expand", site.input(1), site.shape(dims))]
        tensor = numpy_helper.from_array(value)
        return [site.emit("ConstantOfShape", site.shape(dims), value=tensor)]

    return translate


def _shape(site: Site) -> list[str]:
    shape = site.call.args[0]
    if not isinstance(shape, relax.ShapeExpr):
        raise CannotExport("its shape is not known")
    return [site.shape(list(shape.values))]


TRANSLATORS: dict[str, Translator] = {
    "reshape": _reshape,
    "flatten": _reshape,
    "broadcast_to": _expand,
    "permute_dims": _transpose,
    "squeeze": _squeeze,
    "expand_dims": _unsqueeze,
    "concat": _concat,
    "split": _split,
    "strided_slice": _slice,
    "flip": _flip,
    "take": _take,
    "nn.pad": _pad,
    "tile": _tile,
    "arange": _range,
    "full": _filled(None),
    "zeros": _filled(0),
    "ones": _filled(1),
    "zeros_like": _filled(0),
    "ones_like": _filled(1),
    "shape_to_tensor": _shape,
}
