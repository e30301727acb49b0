"""Numbers of eight bits (float8_e4m3fn) in memory, as float32 in registers; exact.

With AVX-512 VBMI two tables of 128 bytes, each of which two registers hold, give the two bytes of a
bfloat16, and the sign is put back: a vector of 64 bytes becomes four rows of 16 float32. Else sign,
exponent and mantissa move to where a wider type has them, one row at a time. With AVX-512 that is
float16, whose denormals the machine converts as fast as other numbers, and whatever it is told to
flush to zero; else float32, times what keeps float8's exponent out of the denormals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from tvm import tirx

Expr = Any

# Rows in one vector of a kernel that looks numbers up.
ROWS = 4
# What `moved` leaves out.
_FACTOR = 2.0**8
# Float32 has its exponent 120 further up than float8_e4m3fn.
_BIAS = 2.0**120
_MASK = 0x87F00000 - (1 << 32)
_HALF_MASK = 0xBF80 - (1 << 16)
# Columns of a vector that are neighbours in a row of 16 bytes, to which instructions are confined.
_LANE = 4


def factor(looks_up: bool) -> float:
    """What numbers are still to be multiplied by."""
    return 1.0 if looks_up else _FACTOR


def interleaved(codes: np.ndarray) -> np.ndarray:
    """Bytes [panels, depth, columns] as they are looked up: int32 [panels, depth / 4, columns]."""
    count, depth, width = codes.shape
    # Rows by half and parity; columns by vector, lane, and place in the lane.
    parts = codes.reshape(count, depth // ROWS, 2, 2, width // 16, 16 // _LANE, _LANE)
    moved = parts.transpose(0, 1, 4, 5, 2, 6, 3)
    return np.ascontiguousarray(moved).reshape(count, depth // ROWS, -1).view(np.int32)


def definition(row: int) -> str:
    """Definition of what `looked_up` calls for a row of four."""
    numbers = np.arange(128, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    halves = numbers.view(np.uint32) >> 16
    bytes_of = {"high": halves >> 8, "low": halves & 0xFF}
    start = 8 * (row // 2)
    pairs = [lane + start + i for lane in range(0, 64, 16) for i in range(8)]
    mask = ", ".join(f"i32 {i}, i32 {64 + i}" for i in pairs)
    place = "shl <16 x i32> %pairs, splat (i32 16)"
    if row % 2:
        place = "and <16 x i32> %pairs, splat (i32 -65536)"

    def table(name: str, start: int) -> str:
        return _bytes(bytes_of[name][start : start + 64].tolist())

    lookups = "".join(
        f"  %{name} = call <64 x i8> @llvm.x86.avx512.vpermi2var.qi.512(\n"
        f"    {table(name, 0)}, <64 x i8> %codes, {table(name, 64)})\n"
        for name in ("low", "high")
    )
    return f"""
declare <64 x i8> @llvm.x86.avx512.vpermi2var.qi.512(<64 x i8>, <64 x i8>, <64 x i8>)
define <16 x float> @relaxc_float8_{row}(<16 x i32> %words) {{
  %codes = bitcast <16 x i32> %words to <64 x i8>
{lookups}  %sign = and <64 x i8> %codes, splat (i8 -128)
  %upper = or <64 x i8> %high, %sign
  %both = shufflevector <64 x i8> %low, <64 x i8> %upper, <64 x i32> <{mask}>
  %pairs = bitcast <64 x i8> %both to <16 x i32>
  %placed = {place}
  %r = bitcast <16 x i32> %placed to <16 x float>
  ret <16 x float> %r
}}
"""


def _bytes(values: Sequence[int]) -> str:
    return "<64 x i8> <" + ", ".join(f"i8 {value - (value & 0x80) * 2}" for value in values) + ">"


def looked_up(words: Expr, row: int) -> Expr:
    """One row of four that a vector of `interleaved` bytes (int32x16) holds."""
    return tirx.call_extern("float32x16", f"relaxc_float8_{row}", words)


def moved(codes: Expr, lanes: int) -> Expr:
    """The finite numbers given as int8, less the factor."""

    def spread(scalar: Expr) -> Expr:
        return tirx.Broadcast(scalar, lanes) if lanes > 1 else scalar

    suffix = f"x{lanes}" if lanes > 1 else ""
    is_half = lanes == 16
    kind, shift, mask = ("int16", 7, _HALF_MASK) if is_half else ("int32", 20, _MASK)
    wide = tirx.shift_left(tirx.Cast(f"{kind}{suffix}", codes), spread(tirx.IntImm(kind, shift)))
    kept = tirx.bitwise_and(wide, spread(tirx.IntImm(kind, mask)))
    if is_half:
        return tirx.Cast(f"float32{suffix}", tirx.reinterpret(f"float16{suffix}", kept))
    rest = tirx.FloatImm("float32", _BIAS / _FACTOR)
    return tirx.reinterpret(f"float32{suffix}", kept) * spread(rest)
