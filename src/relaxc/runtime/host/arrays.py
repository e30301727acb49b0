"""Tensors whose elements are strings, or whose rank only the run knows."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from relaxc.artifact import numpy_dtype
from relaxc.runtime.host.base import Attributes, Function, Inputs, optional, strings


def identity(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """Identity, of containers too."""
    return [inputs[0]]


def shape(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """Shape, or a part of it."""
    dims = inputs[0].shape[attrs.get("start", 0) : attrs.get("end")]
    return [np.array(dims, np.int64)]


def size(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """Size."""
    return [np.array(inputs[0].size, np.int64)]


def reshape(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """Reshape: 0 copies a dimension (unless `allowzero`), -1 is what remains."""
    data, wanted = inputs
    sizes = [int(d) for d in wanted]
    if not attrs.get("allowzero", 0):
        sizes = [data.shape[i] if d == 0 else d for i, d in enumerate(sizes)]
    return [data.reshape(sizes)]


def concat(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """Concat."""
    return [np.concatenate(inputs, axis=attrs["axis"])]


def gather(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """Gather; NumPy refuses indices outside of the axis."""
    return [np.asarray(np.take(inputs[0], inputs[1], axis=attrs.get("axis", 0)))]


def where(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """Where."""
    return [np.where(*inputs)]


def unsqueeze(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """Unsqueeze."""
    return [np.expand_dims(inputs[0], tuple(int(a) for a in np.atleast_1d(inputs[1])))]


def squeeze(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """Squeeze: the axes given, else all of length 1."""
    axes = optional(inputs, 1)
    return [np.squeeze(inputs[0], None if axes is None else tuple(int(a) for a in axes))]


def expand(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """Expand: broadcast in both directions."""
    data, wanted = inputs
    sizes = np.broadcast_shapes(data.shape, tuple(int(d) for d in wanted))
    return [np.broadcast_to(data, sizes)]


def cut(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """Slice."""
    data, starts, ends = inputs[:3]
    axes, steps = optional(inputs, 3), optional(inputs, 4)
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    chosen = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps):
        # Backward, an end before the first element is written as a number below -length.
        reach = None if step < 0 and end < -data.shape[axis] else int(end)
        chosen[int(axis)] = slice(int(start), reach, int(step))
    return [data[tuple(chosen)]]


def transpose(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """Transpose."""
    return [np.transpose(inputs[0], attrs.get("perm"))]


def flatten(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """Flatten to a matrix."""
    data, axis = inputs[0], attrs.get("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    rows = int(np.prod(data.shape[:axis], dtype=np.int64))
    return [data.reshape(rows, int(np.prod(data.shape[axis:], dtype=np.int64)))]


def tile(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """Tile."""
    return [np.tile(inputs[0], tuple(int(n) for n in inputs[1]))]


def cast(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """Cast from or to strings.

    Raises:
        ValueError: a string is no number.
    """
    data, to = inputs[0], attrs["to"]
    if to in ("object", "string"):
        return [data if data.dtype.kind == "O" else strings(map(_text, data.flat), data.shape)]
    if data.dtype.kind != "O":
        return [data.astype(numpy_dtype(to))]
    dtype = numpy_dtype(to)
    is_integer = dtype.kind in "iu"
    numbers = [int(text) if is_integer else float(text) for text in data.flat]
    wide = np.array(numbers, dtype if is_integer else np.float64)
    return [wide.astype(dtype).reshape(data.shape)]


def _text(value: Any) -> str:
    """A number as ONNX Runtime writes it."""
    if isinstance(value, np.bool_):
        return str(int(value))
    if isinstance(value, np.floating):
        if not np.isfinite(value):
            return "NaN" if np.isnan(value) else "INF" if value > 0 else "-INF"
        return f"{float(value):.17g}" if value.dtype == np.float64 else f"{float(value):.8g}"
    return str(int(value))


def _pairwise(function: Callable[..., Any]) -> Function:
    def run(inputs: Inputs, _attrs: Attributes) -> list[Any]:
        with np.errstate(all="ignore"):  # integers wrap around
            result = np.asarray(function(*inputs))
        is_answer = result.dtype == object and function is operator.eq
        return [result.astype(np.bool_) if is_answer else result]

    return run


FUNCTIONS: dict[str, Function] = {
    "Identity": identity,
    "Shape": shape,
    "Size": size,
    "Reshape": reshape,
    "Concat": concat,
    "Gather": gather,
    "Where": where,
    "Unsqueeze": unsqueeze,
    "Squeeze": squeeze,
    "Expand": expand,
    "Slice": cut,
    "Transpose": transpose,
    "Flatten": flatten,
    "Tile": tile,
    "Cast": cast,
    "Equal": _pairwise(operator.eq),
    "Add": _pairwise(operator.add),
    "Sub": _pairwise(operator.sub),
    "Mul": _pairwise(operator.mul),
    "Less": _pairwise(operator.lt),
    "LessOrEqual": _pairwise(operator.le),
    "Greater": _pairwise(operator.gt),
    "GreaterOrEqual": _pairwise(operator.ge),
    "And": _pairwise(np.logical_and),
    "Or": _pairwise(np.logical_or),
    "Not": _pairwise(np.logical_not),
    "Neg": _pairwise(operator.neg),
    "Abs": _pairwise(np.abs),
}
