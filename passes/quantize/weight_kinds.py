"""What weights are rounded to: integers of four or eight bits, or floats of eight.

A float of eight bits (e4m3fn: four of exponent, three of mantissa) errs by a share of itself, an
integer by a share of the largest: floats lose more where numbers are alike, less where few are
large. Pure arithmetic on arrays.
"""

from __future__ import annotations

from typing import Literal

import ml_dtypes
import numpy as np

from relaxc.passes.quantize.affine import shortened

WeightKind = Literal["int4", "int8", "float8"]

FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST_FLOAT8 = 448.0


def to_float8(values: np.ndarray) -> np.ndarray:
    """The nearest numbers of float8, ties to even; what is too large becomes the largest."""
    nearest: np.ndarray = np.clip(values, -LARGEST_FLOAT8, LARGEST_FLOAT8).astype(FLOAT8)
    return nearest


def round_groups(rows: np.ndarray, kind: WeightKind) -> tuple[np.ndarray, np.ndarray]:
    """Elements as they are stored (int8, or float8), and the scale, of each row."""
    if kind == "int4":
        where = np.abs(rows).argmax(axis=1)
        scale = shortened(rows[np.arange(len(rows)), where] / np.float32(-8))
    elif kind == "int8":
        scale = np.abs(rows).max(axis=1) / np.float32(127)
    else:
        scale = shortened(np.abs(rows).max(axis=1) / np.float32(LARGEST_FLOAT8))
    scale = np.where(scale == 0, np.float32(1), scale).astype(np.float32)
    parts = rows / scale[:, None]
    if kind == "float8":
        return to_float8(parts), scale
    low, high = (-127, 127) if kind == "int8" else (-8, 7)
    return np.clip(np.rint(parts), low, high).astype(np.int8), scale
