"""Between float32 and the integers that it is stored as, in registers."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx import FloatImm, IntImm

from relaxc.layout import Quantization

Expr = Any

# Integers of up to 22 bits are the low bits of their sums with it.
_ROUND = 1.5 * 2**23
_ROUND_BITS = 0x4B400000


def dequantized(value: Expr, params: Quantization, lanes: int) -> Expr:
    """scale * (value - zero_point)."""
    whole = tirx.Cast(_vector("float32", lanes), tirx.Cast(_vector("int32", lanes), value))
    scale, zero = _floats(params.scale, lanes), _floats(params.zero_point, lanes)
    return (whole - zero) * scale if params.zero_point else whole * scale


def quantized(value: Expr, params: Quantization, lanes: int) -> Expr:
    """Rounded to the nearest integer, ties to even, and saturated, as int32.

    Adding 1.5 * 2**23 rounds, and leaves the integer in the low bits.
    """
    zero, first = params.zero_point, _ROUND - params.zero_point
    shifted = value * _floats(1 / params.scale, lanes) + _floats(_ROUND, lanes)
    low, high = _floats(first, lanes), _floats(first + 255, lanes)
    bits = tirx.reinterpret(_vector("int32", lanes), tirx.min(high, tirx.max(low, shifted)))
    # By its bits, because TVM's simplifier would cancel the numbers.
    return bits - _spread(IntImm("int32", _ROUND_BITS - zero), lanes)


def _floats(value: float, lanes: int) -> Expr:
    return _spread(FloatImm("float32", float(value)), lanes)


def _spread(scalar: Expr, lanes: int) -> Expr:
    return tirx.Broadcast(scalar, lanes) if lanes > 1 else scalar


def _vector(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype
