"""Exponentials and GELU in full precision, with the help of tables of 32 numbers.

`vpermi2ps` picks one of 32 floats per lane by the low bits of an integer. A table of the powers of
two from 1 to 2 leaves so little to an exponential's polynomial that two multiply-adds suffice; the
normal distribution's tail is a polynomial of degree 3 per piece. That takes two thirds of the time
of `vector_math`, whose long polynomials keep the multipliers busy. Needs avx512f.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels import vector_math
from relaxc.targets.llvm.kernels.builder import Expr, KernelBuilder
from relaxc.targets.llvm.kernels.piecewise import LANES, splat, vector

_SIZE = 32
# Adding it rounds to a multiple of a piece's width (1/32 and 1), whose number the low bits hold.
_ROUND_FRACTION = 1.5 * 2**23 / _SIZE
_ROUND = 1.5 * 2**23
_LOG2E = float(np.float32(np.log2(np.e)))
_LOG2E_REST = np.log2(np.e) - _LOG2E
# Of 2**r - 1 for |r| <= 1/64: relative error 5.4e-8.
_POWER = (0.69315734, 0.24022886)
# Width of the pieces of the normal distribution's tail.
_WIDTH = 0.172

NAMES = ("exp", "gelu", "sigmoid", "silu")


def exact(b: KernelBuilder, name: str, x: Expr) -> Expr:
    """One of `NAMES` of a whole vector in full precision, the fastest way; NaN for NaN.

    Or `decay`, the exponential of what is at most zero: of its distance to the largest number.
    """
    if b.lanes != LANES:
        function: Callable[[Expr], Expr] = getattr(vector_math, "exp" if name == "decay" else name)
        return function(x)
    b.define(_definition(name))
    return tirx.call_extern(f"float32x{LANES}", f"relaxc_exact_{name}", x)


@cache
def _definition(name: str) -> str:
    body = _GELU if name == "gelu" else _exponential(name)
    return f"""
declare <16 x float> @llvm.x86.avx512.vpermi2var.ps.512(<16 x float>, <16 x i32>, <16 x float>)
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
declare <16 x float> @llvm.fabs.v16f32(<16 x float>)
define <16 x float> @relaxc_exact_{name}(<16 x float> %x) {{
{body}  ret <16 x float> %result
}}
"""


def _fma(result: str, a: str, b: str, c: str) -> str:
    operands = ", ".join(f"<16 x float> {operand}" for operand in (a, b, c))
    return f"  %{result} = call <16 x float> @llvm.fma.v16f32({operands})\n"


def _pick(result: str, table: np.ndarray) -> str:
    low, high = vector(table[:LANES]), vector(table[LANES:])
    return f"""  %{result} = call <16 x float> @llvm.x86.avx512.vpermi2var.ps.512(
    <16 x float> {low}, <16 x i32> %bits, <16 x float> {high})
"""


def _bounded(low: float, high: float | None) -> str:
    """%y is %x within bounds, and %raised within the lower one; both are NaN for NaN."""
    raised = "y" if high is None else "raised"
    bound = f"""  %below = fcmp ogt <16 x float> {splat(low)}, %x
  %{raised} = select <16 x i1> %below, <16 x float> {splat(low)}, <16 x float> %x
"""
    if high is None:
        return bound
    return f"""{bound}  %above = fcmp olt <16 x float> {splat(high)}, %raised
  %y = select <16 x i1> %above, <16 x float> {splat(high)}, <16 x float> %raised
"""


def _exponential(name: str) -> str:
    """`exp`, `decay`, `sigmoid` or `silu`, the latter two by e**-x.

    The exponent is added to a table's entries as an integer. For `exp` these are halved, so that
    doubling the result can overflow; it is flushed below 2**-125.

    `decay` cannot overflow, and leaves out what is lost of log2(e) in float32: 1.4e-8 * |x| of
    the result, less than half of what rounding such an x loses.
    """
    sign = 1 if name in ("exp", "decay") else -1
    powers = 2.0 ** (np.arange(_SIZE) / _SIZE) * (0.5 if name == "exp" else 1.0)
    bits = powers.astype(np.float32).view(np.int32)
    # The shift that brings the exponent to its place brings the table's index to the mantissa.
    table = (bits - (np.arange(_SIZE, dtype=np.int32) << 18)).view(np.float32)
    low, high = {"exp": (-86.6, 89.0), "decay": (-86.6, None)}.get(name, (-88.7, 87.0))
    one = splat(1.0)
    rest = "" if name == "decay" else _fma("r", "%y", splat(sign * _LOG2E_REST), "%rough")
    body = (
        _bounded(low, high)
        + _fma("m", "%y", splat(sign * _LOG2E), splat(_ROUND_FRACTION))
        + f"  %n = fsub <16 x float> %m, {splat(_ROUND_FRACTION)}\n"
        + "  %minus = fneg <16 x float> %n\n"
        + _fma("rough" if rest else "r", "%y", splat(sign * _LOG2E), "%minus")
        + rest
        + "  %bits = bitcast <16 x float> %m to <16 x i32>\n"
        + _pick("entry", table)
        + "  %entry_bits = bitcast <16 x float> %entry to <16 x i32>\n"
        + "  %moved = shl <16 x i32> %bits, splat (i32 18)\n"
        + "  %sum = add <16 x i32> %entry_bits, %moved\n"
        + "  %t = bitcast <16 x i32> %sum to <16 x float>\n"
        + _fma("q", "%r", splat(_POWER[1]), splat(_POWER[0]))
        + _fma("p", "%q", "%r", one)
    )
    if name == "decay":
        return body + "  %result = fmul <16 x float> %p, %t\n"
    if name == "exp":
        return (
            body
            + "  %half = fmul <16 x float> %p, %t\n"
            + "  %result = fadd <16 x float> %half, %half\n"
        )
    # The lower bound for the numerator as well: x / (1 + e**-x) tends to zero.
    numerator = "%raised" if name == "silu" else one
    return body + _fma("d", "%p", "%t", one) + f"  %result = fdiv <16 x float> {numerator}, %d\n"


def _tail_table() -> np.ndarray:
    """[order][piece]: what the normal distribution lacks to one, about the centres of pieces."""
    result = np.zeros((4, _SIZE))
    nodes = 0.5 * _WIDTH * np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    # The last piece is zero: all beyond is less than 8e-8.
    for piece in range(_SIZE - 1):
        values = [math.erfc((piece * _WIDTH + r) / 2**0.5) / 2 for r in nodes]
        fit = np.polynomial.Polynomial.fit(nodes, values, 3).convert().coef
        result[: len(fit), piece] = fit
    return result.astype(np.float32)


def _gelu() -> str:
    """The positive part of x, less |x| times the normal distribution's tail beyond |x|."""
    high = splat((_SIZE - 1) * _WIDTH)
    zero = splat(0.0)
    body = (
        "  %size = call <16 x float> @llvm.fabs.v16f32(<16 x float> %x)\n"
        + f"  %above = fcmp olt <16 x float> {high}, %size\n"
        + f"  %y = select <16 x i1> %above, <16 x float> {high}, <16 x float> %size\n"
        + f"  %below = fcmp ogt <16 x float> {zero}, %x\n"
        + f"  %positive = select <16 x i1> %below, <16 x float> {zero}, <16 x float> %x\n"
        + _fma("m", "%y", splat(1 / _WIDTH), splat(_ROUND))
        + f"  %n = fsub <16 x float> %m, {splat(_ROUND)}\n"
        + _fma("r", "%n", splat(-_WIDTH), "%y")
        + "  %bits = bitcast <16 x float> %m to <16 x i32>\n"
    )
    for order, table in enumerate(_tail_table()):
        body += _pick(f"c{order}", table)
    body += _fma("s2", "%c3", "%r", "%c2")
    body += _fma("s1", "%s2", "%r", "%c1")
    body += _fma("s0", "%s1", "%r", "%c0")
    body += "  %minus = fneg <16 x float> %y\n"
    return body + _fma("result", "%minus", "%s0", "%positive")


_GELU = _gelu()
