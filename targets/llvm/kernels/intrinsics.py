"""Instructions that TIR cannot name, as always-inlined functions of LLVM IR.

TIR has no vectors of bfloat16 that reach LLVM (its legalization turns them into float32, and the
dot product then fails LLVM's verifier), so that kernels carry them as integers of the same bits:
pairs in an int32, single ones in a uint16. The functions below bring them to the right type.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tvm
from tvm import tirx

Expr = Any

DOT_BFLOAT16 = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @relaxc_dot_bfloat16(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
    <16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
"""
BFLOAT16_PAIRS = """
declare <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float>, <16 x float>)
define <16 x i32> @relaxc_bfloat16_pairs(<16 x float> %low, <16 x float> %high) {
  %r = call <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(
    <16 x float> %high, <16 x float> %low)
  %b = bitcast <32 x bfloat> %r to <16 x i32>
  ret <16 x i32> %b
}
"""


def bfloat16_rounding(lanes: int) -> str:
    """Definition of what `to_bfloat16` calls."""
    real, half, bits = (f"<{lanes} x {t}>" if lanes > 1 else t for t in ("float", "bfloat", "i16"))
    return f"""
define {bits} @relaxc_bfloat16_{lanes}({real} %x) {{
  %r = fptrunc {real} %x to {half}
  %b = bitcast {half} %r to {bits}
  ret {bits} %b
}}
"""


def dot_bfloat16(total: Expr, a: Expr, b: Expr) -> Expr:
    """`total[i] + a[2i] * b[2i] + a[2i+1] * b[2i+1]` (float32x16) of pairs (int32x16).

    Denormals count as zero; needs avx512bf16.
    """
    return tirx.call_extern("float32x16", "relaxc_dot_bfloat16", total, a, b)


def bfloat16_pairs(low: Expr, high: Expr) -> Expr:
    """Round two vectors of float32x16 to 32 bfloat16 in order, as pairs (int32x16)."""
    return tirx.call_extern("int32x16", "relaxc_bfloat16_pairs", low, high)


def to_bfloat16(value: Expr, lanes: int) -> Expr:
    """Round float32 to the nearest bfloat16, ties to even, as uint16."""
    dtype = f"uint16x{lanes}" if lanes > 1 else "uint16"
    return tirx.call_extern(dtype, f"relaxc_bfloat16_{lanes}", value)


def from_bfloat16(bits: Expr, lanes: int) -> Expr:
    """The float32 values of bfloat16 given as uint16; exact."""

    def spread(scalar: Expr) -> Expr:
        return tirx.Broadcast(scalar, lanes) if lanes > 1 else scalar

    suffix = f"x{lanes}" if lanes > 1 else ""
    wide = tirx.Cast(f"uint32{suffix}", bits)
    shifted = tirx.shift_left(wide, spread(tirx.IntImm("uint32", 16)))
    return tirx.reinterpret(f"float32{suffix}", shifted)


def dot_uint8(total: Expr, a: Expr, b: Expr) -> Expr:
    """`total[i]` plus the products of four uint8 of `a[i]` and four int8 of `b[i]`, all int32."""
    return tirx.call_extern(total.ty.dtype, "relaxc_dot_uint8", total, a, b)


_DOT_UINT8 = """
declare <{n} x i32> @llvm.x86.avx512.vpdpbusd.{bits}(<{n} x i32>, <{bytes} x i8>, <{bytes} x i8>)
define <{n} x i32> @relaxc_dot_uint8(<{n} x i32> %c, <{n} x i32> %a, <{n} x i32> %b) {{
  %x = bitcast <{n} x i32> %a to <{bytes} x i8>
  %y = bitcast <{n} x i32> %b to <{bytes} x i8>
  %r = call <{n} x i32> @llvm.x86.avx512.vpdpbusd.{bits}(
    <{n} x i32> %c, <{bytes} x i8> %x, <{bytes} x i8> %y)
  ret <{n} x i32> %r
}}
"""

# Without the instruction: even and odd bytes as int16, whose pairwise products cannot overflow
# (vpmaddubsw, which takes bytes, saturates at int16).
_DOT_INT16 = """
declare <{n} x i32> @{madd}(<{pairs} x i16>, <{pairs} x i16>)
define <{n} x i32> @relaxc_dot_uint8(<{n} x i32> %c, <{n} x i32> %a, <{n} x i32> %b) {{
  %x = bitcast <{n} x i32> %a to <{pairs} x i16>
  %y = bitcast <{n} x i32> %b to <{pairs} x i16>
  %x0 = and <{pairs} x i16> %x, splat (i16 255)
  %x1 = lshr <{pairs} x i16> %x, splat (i16 8)
  %ys = shl <{pairs} x i16> %y, splat (i16 8)
  %y0 = ashr <{pairs} x i16> %ys, splat (i16 8)
  %y1 = ashr <{pairs} x i16> %y, splat (i16 8)
  %even = call <{n} x i32> @{madd}(<{pairs} x i16> %x0, <{pairs} x i16> %y0)
  %odd = call <{n} x i32> @{madd}(<{pairs} x i16> %x1, <{pairs} x i16> %y1)
  %sum = add <{n} x i32> %even, %odd
  %r = add <{n} x i32> %c, %sum
  ret <{n} x i32> %r
}}
"""
_MULTIPLY_PAIRS = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}


def byte_products(lanes: int, instruction: str) -> str:
    """Definition of what `dot_uint8` calls."""
    sizes = {"n": lanes, "bits": 32 * lanes, "bytes": 4 * lanes, "pairs": 2 * lanes}
    if instruction == "vpdpbusd":
        return _DOT_UINT8.format(**sizes)
    return _DOT_INT16.format(madd=_MULTIPLY_PAIRS[lanes], **sizes)


def nibble_table(zero_point: int) -> str:
    """Definition of what `nibble` calls: the sixteen values of four bits, looked up."""
    table = ", ".join(f"float {i - zero_point}.0" for i in range(16))
    return f"""
declare <16 x float> @llvm.x86.avx512.permvar.sf.512(<16 x float>, <16 x i32>)
define <16 x float> @relaxc_nibble_{zero_point}(<16 x i32> %i) {{
  %r = call <16 x float> @llvm.x86.avx512.permvar.sf.512(<16 x float> <{table}>, <16 x i32> %i)
  ret <16 x float> %r
}}
"""


def nibble(bits: Expr, zero_point: int) -> Expr:
    """What the lowest four bits of each int32x16 say, less a zero point; needs avx512f."""
    return tirx.call_extern("float32x16", f"relaxc_nibble_{zero_point}", bits)


def joining(dtype: str) -> str:
    """Definition of what `join_halves` calls.

    The mask comes through empty assembly: LLVM makes a shuffle by a table of a blend by a constant,
    which only the multipliers' ports can do.
    """
    vector = f"<16 x {'float' if dtype == 'float32' else 'i32'}>"
    return f"""
define {vector} @relaxc_join_halves_{dtype}({vector} %low, {vector} %high) {{
  %bits = call i16 asm "", "=r,0"(i16 -256)
  %mask = bitcast i16 %bits to <16 x i1>
  %r = select <16 x i1> %mask, {vector} %high, {vector} %low
  ret {vector} %r
}}
"""


def join_halves(low: Expr, high: Expr, dtype: str) -> Expr:
    """The lower half of one vector of 16 and the upper half of another; needs avx512f."""
    return tirx.call_extern(f"{dtype}x16", f"relaxc_join_halves_{dtype}", low, high)


def with_definitions(body: Any, definitions: Iterable[str]) -> Any:
    """A function's body that may call what is defined in these texts of LLVM IR."""
    text, declared = "", set[str]()
    for line in "".join(definitions).splitlines(keepends=True):
        # Two texts may declare the same intrinsic, which LLVM takes once.
        if line.startswith("declare "):
            if line in declared:
                continue
            declared.add(line)
        text += line
    return tirx.AttrStmt(
        tirx.IntImm("int32", 0), "pragma_import_llvm", tvm.ir.StringImm(text), body
    )
