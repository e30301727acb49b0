"""Constants that kernels take: arrays of float32, or quantized ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

DEQUANTIZE = "relax.dequantize"
# Sums of as many products of a byte and an int8 fit into int32.
_LARGEST_DEPTH = (1 << 31) // (255 * 128) - 1


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


def is_constant(expr: relax.Expr) -> bool:
    """Whether an expression is a constant, float or quantized."""
    return isinstance(expr, GenericConst) or _is_dequantization(expr)


def array_of(expr: relax.Expr) -> np.ndarray:
    """The values of a constant."""
    if isinstance(expr, GenericConst):
        array: np.ndarray = expr.value.numpy()
        return array
    integers, scale, zero = (arg.value.numpy() for arg in expr.args)
    shape = _along(int(expr.attrs.axis), integers.ndim, scale.size)
    real: np.ndarray = (integers.astype(np.float32) - zero.reshape(shape)) * scale.reshape(shape)
    return real.astype(np.float32)


def quantized(expr: relax.Expr, axis: int) -> QuantizedArray | None:
    """A constant as int8 with zero points of zero and scales along `axis`; None for others."""
    if not _is_dequantization(expr):
        return None
    integers, scale, zero = (arg.value.numpy() for arg in expr.args)
    given = int(expr.attrs.axis) % integers.ndim
    if integers.dtype != np.int8 or zero.any() or (scale.size > 1 and given != axis):
        return None
    if integers.size // integers.shape[axis] > _LARGEST_DEPTH:
        return None
    return QuantizedArray(integers, scale.reshape(-1))


def inlined(call: relax.Call, constants: Mapping[relax.Var, relax.Expr]) -> relax.Call:
    """`call` with quantized constants in place of their variables."""
    if not any(arg in constants for arg in call.args):
        return call
    args = [constants.get(arg, arg) for arg in call.args]
    whole = relax.Call(call.op, args, call.attrs, call.ty_args)
    relax.expr._update_type(whole, call.ty)
    return whole


def _is_dequantization(expr: relax.Expr) -> bool:
    return (
        isinstance(expr, relax.Call)
        and isinstance(expr.op, tvm.ir.Op)
        and expr.op.name == DEQUANTIZE
        and all(isinstance(arg, GenericConst) for arg in expr.args)
    )


def _along(axis: int, ndim: int, size: int) -> list[int]:
    shape = [1] * ndim
    shape[axis] = size
    return shape
