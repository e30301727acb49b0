"""How kernels multiply and accumulate: the operands' dtype, and how many of them at a time.

A dot instruction takes `group` neighbours of the reduction at once per lane: pairs of bfloat16. The
data must have them side by side (neighbouring channels are, in every vector layout), and the packed
weights are interleaved to match. A kernel then runs over groups, in units of 32 bits:

    operands     accumulator   group   instruction
    float32      float32       1       multiply-add
    bfloat16     float32       2       vdpbf16ps
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from relaxc.layout import Element
from relaxc.targets.llvm.kernels.builder import Expr, KernelBuilder
from relaxc.targets.llvm.kernels.view import View


@dataclass(frozen=True)
class Arithmetic:
    """One row of the table above.

    Attributes:
        element: what data and weights are stored as.
        group: neighbours that one instruction multiplies per lane.
    """

    element: Element
    group: int

    def multiply_add(self, b: KernelBuilder, total: Expr, value: Expr, weight: Expr) -> Expr:
        """`total` plus the products of a group."""
        if self.group == 1:
            return total + value * weight
        return b.dot_bfloat16(total, value, weight)

    def view(self, b: KernelBuilder, x: View) -> View:
        """Data as groups: all strides count groups."""
        group = self.group
        if group == 1:
            return x
        assert isinstance(x.origin, int) and x.buffer.is_bfloat16
        sizes = (x.image, x.plane, x.row, x.pixel, x.origin)
        assert not any(size % group for size in sizes[1:]), "groups must be aligned"
        return replace(
            x,
            buffer=b.grouped(x.buffer, group),
            image=x.image // group,
            plane=x.plane // group,
            row=x.row // group,
            pixel=x.pixel // group,
            origin=x.origin // group,
        )

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """[..., depth, columns] float32 -> [..., depth / group, columns], 32 bits each."""
        if self.group == 1:
            return np.ascontiguousarray(weight, np.float32)
        *outer, depth, columns = weight.shape
        bits = to_bfloat16(weight).reshape(*outer, depth // self.group, self.group, columns)
        return np.ascontiguousarray(np.moveaxis(bits, -2, -1)).view(np.int32)[..., 0]


FLOAT32 = Arithmetic("float32", 1)
BFLOAT16 = Arithmetic("bfloat16", 2)


def arithmetic_of(x: View) -> Arithmetic:
    """How to multiply data that are stored as `x` is."""
    return BFLOAT16 if x.buffer.is_bfloat16 else FLOAT32


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16, ties to even; its bits, as uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype(np.uint16)
    # Rounding could carry a NaN's mantissa into its exponent.
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
