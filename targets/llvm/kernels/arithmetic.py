"""How kernels multiply and accumulate: the operands' dtype, and how many of them at a time.

A dot instruction takes `group` neighbours of the reduction at once per lane: pairs of bfloat16. The
data must have them side by side (neighbouring channels are, in every vector layout), and the packed
weights are interleaved to match. A kernel then runs over groups, in units of 32 bits:

    operands     accumulator   group   instruction
    float32      float32       1       multiply-add
    bfloat16     float32       2       vdpbf16ps
    uint8        int32         4       vpdpbusd

Integers come with a scale per output channel, and with what makes up for the data's zero point:

    sum(scale_x * (x - zero) * scale_w * w) = scale_x * scale_w * (sum(x * w) - zero * sum(w))
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx

from relaxc.layout import Element, Quantization
from relaxc.targets.llvm.kernels.builder import (
    Buffer,
    Expr,
    Index,
    KernelBuilder,
    Register,
    vector,
)
from relaxc.targets.llvm.kernels.constants import QuantizedArray
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.view import View

Registers = list[list[Register]]


@dataclass(frozen=True)
class Rescale:
    """How sums of integer products become float32, per output channel.

    Attributes:
        offset: int32, where sums begin.
        scale: float32, what they are multiplied by.
    """

    offset: Buffer
    scale: Buffer

    @staticmethod
    def arrays(
        weight: QuantizedArray, sums: np.ndarray, data: Quantization, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The contents of both buffers, padded to `width` channels.

        Args:
            weight: gives the scales.
            sums: of the integers of each output channel.
            data: how the data are stored.
            width: at least the number of channels.
        """
        offset = np.zeros(width, np.int32)
        offset[: sums.size] = -data.zero_point * sums
        scale = np.zeros(width, np.float32)
        scale[: sums.size] = np.float32(data.scale) * weight.scale
        return offset, scale


@dataclass(frozen=True)
class Arithmetic:
    """One row of the table above.

    Attributes:
        element: what data and weights are stored as.
        group: neighbours that one instruction multiplies per lane.
        accumulator: dtype of the sums.
        rescale: what turns sums of integers into float32.
    """

    element: Element
    group: int
    accumulator: str = "float32"
    rescale: Rescale | None = None

    def multiply_add(self, b: KernelBuilder, total: Expr, value: Expr, weight: Expr) -> Expr:
        """`total` plus the products of a group."""
        if self.group == 1:
            return total + value * weight
        if self.group == 4:
            return b.dot_uint8(total, value, weight)
        return b.dot_bfloat16(total, value, weight)

    def accumulators(self, b: KernelBuilder, rows: int, first: Index, blocks: int) -> Registers:
        """[block][row] registers for `blocks` channel blocks from `first` on, ready to add to."""
        registers = [[b.register(self.accumulator) for _ in range(rows)] for _ in range(blocks)]
        for block, row in enumerate(registers):
            start = b.splat(0.0)
            if self.rescale is not None:
                start = b.let(b.load(self.rescale.offset, (first + block) * b.lanes))
            for register in row:
                register.set(start)
        return registers

    def result(self, b: KernelBuilder, total: Expr, block: Index) -> Expr:
        """A sum as float32, for channel block `block`."""
        if self.rescale is None:
            return total
        scale = b.load(self.rescale.scale, block * b.lanes)
        return tirx.Cast(vector("float32", b.lanes), total) * scale

    def view(self, b: KernelBuilder, x: View) -> View:
        """Data as groups: all strides count groups."""
        group = self.group
        if group == 1 or x.buffer.dtype == "int32":  # the latter is grouped already
            return x
        origin = simple(x.origin)
        # Sizes of rows and images are symbolic multiples of the size of a pixel, if not numbers.
        sizes = [s for s in (x.plane, simple(x.row), x.pixel, origin) if isinstance(s, int)]
        assert not any(size % group for size in sizes), "groups must be aligned"
        return replace(
            x,
            buffer=b.grouped(x.buffer, group),
            image=x.image // group,
            plane=x.plane // group,
            row=x.row // group,
            pixel=x.pixel // group,
            origin=origin // group,
        )

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """[..., depth, columns] float32 -> [..., depth / group, columns], 32 bits each."""
        if self.group == 1:
            return np.ascontiguousarray(weight, np.float32)
        *outer, depth, columns = weight.shape
        padded = np.pad(weight, [(0, 0)] * len(outer) + [(0, -depth % self.group), (0, 0)])
        narrow = to_bfloat16(padded) if self.group == 2 else padded
        bits = narrow.reshape(*outer, -1, self.group, columns)
        return np.ascontiguousarray(np.moveaxis(bits, -2, -1)).view(np.int32)[..., 0]


FLOAT32 = Arithmetic("float32", 1)
BFLOAT16 = Arithmetic("bfloat16", 2)
UINT8 = Arithmetic("uint8", 4, "int32")


def arithmetic_of(x: View) -> Arithmetic:
    """How to multiply data that are stored as `x` is."""
    return BFLOAT16 if x.buffer.is_bfloat16 else FLOAT32


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16, ties to even; its bits, as uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype(np.uint16)
    # Rounding could carry a NaN's mantissa into its exponent.
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
