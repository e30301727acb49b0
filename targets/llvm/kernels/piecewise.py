"""Activations for results of 8 bits, as 32 parabolas whose coefficients are looked up.

`vpermi2ps` picks one of 32 floats per lane, so that a function takes three look-ups and two
multiply-adds, after three instructions that find the piece: half of what an exponential and a
division take. Pieces are centred at multiples of their width. The first one is constant and the
last one the identity, or nearly so, beyond the bounds as well. Needs avx512f.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from tvm import tirx

Expr = Any

_PIECES = 32
LANES = 16
# Adding it rounds to an integer and leaves that in the low bits.
_ROUND = 1.5 * 2**23


@dataclass(frozen=True)
class Activation:
    """A function that tends to zero on the left and to the identity on the right.

    Attributes:
        function: in float64.
        bound: pieces reach from its negative to nearly itself.
    """

    function: Callable[[np.ndarray], np.ndarray]
    bound: float

    @property
    def width(self) -> float:
        """Of a piece."""
        return 2 * self.bound / _PIECES

    def coefficients(self) -> np.ndarray:
        """[order][piece], pieces by their number modulo 32: 0 to 15, then -16 to -1."""
        result = np.zeros((3, _PIECES))
        for k in range(-_PIECES // 2, _PIECES // 2):
            nodes = (k + 0.5 * np.cos(np.pi * (np.arange(64) + 0.5) / 64)) * self.width
            values = self.function(nodes)
            if k == -_PIECES // 2:
                fit = np.array([values.min() / 2, 0.0, 0.0])
            elif k == _PIECES // 2 - 1:
                fit = np.array([(values - nodes).min() / 2, 1.0, 0.0])
            else:
                fit = np.asarray(np.polynomial.Polynomial.fit(nodes, values, 2).convert().coef)
            result[: len(fit), k % _PIECES] = fit
        return result


def _normal(x: np.ndarray) -> np.ndarray:
    return np.array([math.erfc(-v / 2**0.5) / 2 for v in x])


def _tanh_normal(x: np.ndarray) -> np.ndarray:
    half: np.ndarray = (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2
    return half


# Absolute errors are below 6e-4, of GELU below 3e-4.
ACTIVATIONS = {
    "silu": Activation(lambda x: x / (1 + np.exp(-x)), 10.0),
    "gelu": Activation(lambda x: x * _normal(x), 4.0),
    "gelu_tanh": Activation(lambda x: x * _tanh_normal(x), 4.0),
}


def activation(name: str, x: Expr) -> Expr:
    """The function of float32x16; finite for finite numbers, NaN for NaN."""
    return tirx.call_extern("float32x16", f"relaxc_{name}", x)


@cache
def definition(name: str) -> str:
    """Definition of what `activation` calls."""
    chosen = ACTIVATIONS[name]
    tables = [
        [vector(row[:LANES]), vector(row[LANES:])]
        for row in chosen.coefficients().astype(np.float32)
    ]
    picks = "".join(
        f"""  %p{order} = call <16 x float> @llvm.x86.avx512.vpermi2var.ps.512(
    <16 x float> {low}, <16 x i32> %i, <16 x float> {high})
"""
        for order, (low, high) in enumerate(tables)
    )
    low, scale, magic = -chosen.bound, 1 / chosen.width, _ROUND
    last = _ROUND + _PIECES // 2 - 1
    return f"""
declare <16 x float> @llvm.x86.avx512.vpermi2var.ps.512(<16 x float>, <16 x i32>, <16 x float>)
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
define <16 x float> @relaxc_{name}(<16 x float> %x) {{
  %below = fcmp ogt <16 x float> {splat(low)}, %x
  %t = select <16 x i1> %below, <16 x float> {splat(low)}, <16 x float> %x
  %m = call <16 x float> @llvm.fma.v16f32(
    <16 x float> %t, <16 x float> {splat(scale)}, <16 x float> {splat(magic)})
  %above = fcmp olt <16 x float> {splat(last)}, %m
  %n = select <16 x i1> %above, <16 x float> {splat(last)}, <16 x float> %m
  %i = bitcast <16 x float> %n to <16 x i32>
{picks}  %q = call <16 x float> @llvm.fma.v16f32(
    <16 x float> %p2, <16 x float> %t, <16 x float> %p1)
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %q, <16 x float> %t, <16 x float> %p0)
  ret <16 x float> %r
}}
"""


def vector(values: Sequence[float] | np.ndarray) -> str:
    """Float32 numbers as a constant of LLVM IR."""
    return "<" + ", ".join(f"float {_exact(float(v))}" for v in values) + ">"


def splat(value: float) -> str:
    """A vector of equal float32 numbers as a constant of LLVM IR."""
    return f"splat (float {_exact(float(np.float32(value)))})"


def _exact(value: float) -> str:
    """A float32 number as LLVM writes constants: the bits of the double."""
    return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"
