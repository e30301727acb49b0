"""Inputs for a model: read from a file, or made up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from relaxc.artifact import numpy_dtype
from relaxc.errors import InputError, OptionError, OutputError, near_matches
from relaxc.options import Shape
from relaxc.replacing import replacing
from relaxc.runtime.model import TensorInfo

FillMode = Literal["zeros", "ones", "random"]
FILL_MODES: tuple[FillMode, ...] = get_args(FillMode)

# Valid in masks and as an index into any table: token ids, positions, segments (BERT has 2).
_INTEGERS_BELOW = 2
_SEQUENCE = 16
_IMAGE = 224
_HINTS = {
    "batch": 1,
    "seq": _SEQUENCE,
    "len": _SEQUENCE,
    "past": _SEQUENCE,
    "time": _SEQUENCE,
    "height": _IMAGE,
    "width": _IMAGE,
}


@dataclass(frozen=True, kw_only=True)
class FeedOptions:
    """Where the inputs of a model come from.

    Attributes:
        path: an `.npz` file; made up where None.
        shapes: sizes of symbolic dimensions, by input; others are guessed.
        fill_mode: what to make up.
        seed: of the random inputs.
    """

    path: Path | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    fill_mode: FillMode = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise OptionError(f"the seed must not be negative, not {self.seed}")

    def feed(self, inputs: Iterable[TensorInfo]) -> dict[str, np.ndarray]:
        """Read or make up the inputs of a model.

        Raises:
            InputError: the file is missing, or no such file.
            OptionError: a shape does not fit the model.
        """
        if self.path is not None:
            return read_feed(self.path, inputs)
        return make_feed(inputs, self.shapes, self.fill_mode, self.seed)


def make_feed(
    inputs: Iterable[TensorInfo],
    shapes: Mapping[str, Shape],
    mode: FillMode = "random",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Make up inputs.

    Args:
        inputs: what the model takes.
        shapes: dimensions for inputs that have symbolic ones; others are guessed from their names.
        mode: what to fill them with.
        seed: of the random numbers; equal seeds give equal inputs.

    Raises:
        OptionError: a shape does not fit the model, or an input is no tensor of numbers.
    """
    inputs = list(inputs)
    for info in inputs:
        if not info.is_numeric:
            raise OptionError(f"input `{info.name}` is of type {info.dtype}, which is not made up")
    sizes = symbol_sizes(inputs, shapes)
    rng = np.random.default_rng(seed)
    return {
        info.name: _filled(
            tuple(sizes[d] if isinstance(d, str) else d for d in info.shape),
            numpy_dtype(info.dtype),
            mode,
            rng,
        )
        for info in inputs
    }


def symbol_sizes(inputs: Iterable[TensorInfo], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Choose a size for every symbolic dimension: the caller's, else a likely one.

    Raises:
        OptionError: a shape does not fit the model.
    """
    known = {info.name: info for info in inputs}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in known:
            listed = ", ".join(f"`{n}`" for n in known) or "none"
            raise OptionError(
                f"input shape given for unknown input `{name}`{near_matches(name, known)}; "
                f"the inputs are {listed}"
            )
        declared = known[name].shape
        if len(shape) != len(declared):
            raise OptionError(
                f"input `{name}` has {len(declared)} dimensions, the shape given has {len(shape)}"
            )
        for size, dim in zip(shape, declared):
            fixed = dim if isinstance(dim, int) else sizes.get(dim, size)
            if not isinstance(size, int):
                raise OptionError(f"dimension `{size}` of input `{name}` must be a number here")
            if size != fixed:
                raise OptionError(
                    f"the shape given for `{name}` says {size} where the model has {dim}"
                    + ("" if isinstance(dim, int) else f", which is {fixed} already")
                )
            if isinstance(dim, str):
                sizes[dim] = size
    for info in known.values():
        for axis, dim in enumerate(info.shape):
            if isinstance(dim, str) and dim not in sizes:
                sizes[dim] = _likely_size(dim, axis, info)
    return sizes


def _likely_size(symbol: str, axis: int, info: TensorInfo) -> int:
    for hint, size in _HINTS.items():
        if hint in symbol.lower():
            return size
    if axis == 0:
        return 1
    if len(info.shape) == 4 and info.dtype.startswith("float"):
        return 3 if axis == 1 else _IMAGE
    return _SEQUENCE


def _filled(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], mode: FillMode, rng: np.random.Generator
) -> np.ndarray:
    if mode == "zeros":
        return np.zeros(shape, dtype)
    if mode == "ones":
        return np.ones(shape, dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        if dtype.itemsize == 1:  # pixels, not indices
            return np.frombuffer(rng.bytes(math.prod(shape)), dtype).reshape(shape).copy()
        return rng.integers(0, _INTEGERS_BELOW, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def read_feed(path: Path, inputs: Iterable[TensorInfo]) -> dict[str, np.ndarray]:
    """Read inputs from an `.npz` file, one array per input name.

    Raises:
        InputError: the file is missing, or no such file.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        arrays = {name: archive[name] for name in archive.files}
    except OSError as err:
        raise InputError(f"cannot read inputs from `{path}`: {err.strerror or err}") from err
    except Exception as err:
        # zipfile, zlib and NumPy each raise their own; a plain .npy array has no `files`.
        raise InputError(
            f"`{path}` is not a readable .npz file; write it with `numpy.savez(path, name=array)`"
        ) from err
    dtypes = {info.name: numpy_dtype(info.dtype) for info in inputs if info.is_numeric}
    for name, array in arrays.items():
        # NumPy stores dtypes that it does not know, such as bfloat16, as raw bytes.
        wanted = dtypes.get(name)
        if array.dtype.kind == "V" and wanted and wanted.itemsize == array.dtype.itemsize:
            arrays[name] = array.view(wanted)
    return arrays


def write_outputs(path: Path, outputs: Mapping[str, np.ndarray]) -> None:
    """Write outputs to an `.npz` file, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **outputs)
    except OSError as err:
        raise OutputError(f"cannot write `{path}`: {err.strerror or err}") from err
