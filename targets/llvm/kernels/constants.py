"""Constants that kernels take: arrays of float32, or quantized ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

_DEQUANTIZE = "relax.dequantize"
# Sums of as many products of a byte and an int8 fit into int32.
_LARGEST_DEPTH = (1 << 31) // (255 * 128) - 1
# Rows that kernels take at a time from a matrix of four bits: what an int32 holds.
_STEP = 8
_FLOAT8 = "float8_e4m3fn"
# Scales of float8 leave room to be multiplied by a power of two.
_LARGEST_SCALE = 2.0**100

# How a weight's elements are stored.
WeightKind = Literal["int4", "int8", "float8"]


@dataclass(frozen=True)
class QuantizedArray:
    """A constant as integers.

    Attributes:
        integers: int8.
        scale: float32, one per index of the channel axis, or a scalar.
    """

    integers: np.ndarray
    scale: np.ndarray

    def transposed(self) -> QuantizedArray:
        """The same with its axes reversed."""
        return QuantizedArray(self.integers.T, self.scale)


@dataclass(frozen=True)
class GroupedWeight:
    """A matrix of a few bits per element, with a scale per column and group of rows.

    Attributes:
        kind: `int4`, `int8`, or `float8` (e4m3fn), which has no zero points.
        integers: uint8 [depth, columns]; below 16 where there are four bits, the bits of float8.
        scale: float32 [groups, columns].
        zero_point: uint8 [groups, columns].
    """

    kind: WeightKind
    integers: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray

    @property
    def bits(self) -> Literal[4, 8]:
        """Of an element."""
        return 4 if self.kind == "int4" else 8

    @property
    def size(self) -> int:
        """Rows of a group."""
        return len(self.integers) // len(self.scale)

    @property
    def sums_fit(self) -> bool:
        """Whether sums of a group's products with int8 fit into int32."""
        return self.size <= _LARGEST_DEPTH

    @property
    def middle(self) -> int | None:
        """The zero point, if all are the same."""
        first = int(self.zero_point.flat[0])
        return first if (self.zero_point == first).all() else None


def is_constant(expr: relax.Expr) -> bool:
    """Whether an expression is a constant: float, quantized, or a quantized one moved."""
    if isinstance(expr, relax.Call) and _is_move(expr):
        return not isinstance(expr.args[0], GenericConst) and is_constant(expr.args[0])
    return isinstance(expr, GenericConst) or _is_dequantization(expr)


def array_of(expr: relax.Expr) -> np.ndarray:
    """The values of a constant."""
    if isinstance(expr, GenericConst):
        array: np.ndarray = expr.value.numpy()
        return array
    integers, scale, zero = _parts(expr)
    real: np.ndarray = (integers.astype(np.float32) - zero) * scale
    return real.astype(np.float32)


def grouped(expr: relax.Expr) -> GroupedWeight | None:
    """A quantized matrix [depth, columns]; None for other constants.

    How it was written down does not matter: groups are what has the same scale and zero point in
    every column.
    """
    if isinstance(expr, GenericConst):
        return None
    integers, scale, zero = _parts(expr)
    is_float = integers.dtype.name == _FLOAT8
    if not (is_float or integers.dtype in (np.int8, np.uint8)) or integers.ndim != 2:
        return None
    if is_float:
        if not _is_plain_float8(integers, scale, zero):
            return None
        integers = integers.view(np.uint8)
    shift = 128 if integers.dtype == np.int8 else 0
    integers, zero = (part.astype(np.int16) + shift for part in (integers, zero))
    changes = np.any((scale[1:] != scale[:-1]) | (zero[1:] != zero[:-1]), axis=1)
    size = math.gcd(len(integers), *(int(i) + 1 for i in np.flatnonzero(changes)))
    if size % _STEP:
        return None
    scale, zero = (np.ascontiguousarray(part[::size]) for part in (scale, zero))
    if is_float:
        return GroupedWeight("float8", integers.astype(np.uint8), scale, zero.astype(np.uint8))
    # Four bits hold sixteen neighbouring integers, of which zero points are some as well.
    low = 120 if shift else 0
    is_narrow = all(low <= part.min() and part.max() < low + 16 for part in (integers, zero))
    first = low if is_narrow else 0
    return GroupedWeight(
        "int4" if is_narrow else "int8",
        (integers - first).astype(np.uint8),
        scale,
        (zero - first).astype(np.uint8),
    )


def _is_plain_float8(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> bool:
    """Whether kernels read these: no NaN, which bits that are moved lose, and no zero point."""
    is_finite = bool(((codes.view(np.uint8) & 0x7F) != 0x7F).all())
    return is_finite and not zero.any() and bool((np.abs(scale) < _LARGEST_SCALE).all())


def _parts(expr: relax.Call) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integers, scales and zero points of a quantized constant, all of its shape."""
    if _is_dequantization(expr):
        integers, scale, zero = (arg.value.numpy() for arg in expr.args)
        shape = _along(int(expr.attrs.axis), integers.ndim, scale.size)
        spread = (np.broadcast_to(part.reshape(shape), integers.shape) for part in (scale, zero))
        return integers, *spread
    parts = _parts(expr.args[0])
    if str(expr.op.name) == "relax.reshape":
        shape = [int(d) for d in expr.ty.shape.values]
        moved = [part.reshape(shape) for part in parts]
    else:
        axes = expr.attrs.axes
        order = None if axes is None else [int(a) for a in axes]
        moved = [np.transpose(part, order) for part in parts]
    return moved[0], moved[1], moved[2]


def quantized(expr: relax.Expr, axis: int) -> QuantizedArray | None:
    """A constant as int8 with zero points of zero and scales along `axis`; None for others."""
    if isinstance(expr, GenericConst):
        return None
    integers, scales, zero = _parts(expr)
    if integers.dtype != np.int8 or zero.any():
        return None
    scale = np.moveaxis(scales, axis, 0).reshape(scales.shape[axis], -1)
    if (scale != scale[:, :1]).any() or scale.shape[1] > _LARGEST_DEPTH:
        return None
    return QuantizedArray(integers, np.ascontiguousarray(scale[:, 0]))


def inlined(call: relax.Call, constants: Mapping[relax.Var, relax.Expr]) -> relax.Call:
    """`call` with quantized constants in place of their variables."""
    if not any(arg in constants for arg in call.args):
        return call
    args = [constants.get(arg, arg) for arg in call.args]
    whole = relax.Call(call.op, args, call.attrs, call.ty_args)
    relax.expr._update_type(whole, call.ty)
    return whole


def _is_move(call: relax.Call) -> bool:
    return isinstance(call.op, tvm.ir.Op) and str(call.op.name) in (
        "relax.reshape",
        "relax.permute_dims",
    )


def _is_dequantization(expr: relax.Expr) -> bool:
    return (
        isinstance(expr, relax.Call)
        and isinstance(expr.op, tvm.ir.Op)
        and expr.op.name == _DEQUANTIZE
        and all(isinstance(arg, GenericConst) for arg in expr.args)
    )


def _along(axis: int, ndim: int, size: int) -> list[int]:
    shape = [1] * ndim
    shape[axis] = size
    return shape
