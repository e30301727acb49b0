"""Matrix product of float32 rows with weights of a few bits that become float32 in registers.

Weights of four bits lie eight rows to an int32, one column per lane; with AVX-512 a nibble becomes
a float32 by one shift and one look-up in a table that fits a register. Weights of eight bits lie a
byte after the other, those of float8 four rows to an int32 where they are looked up. Per column and
group of rows there is a scale, and a zero point unless all are the same.

Few rows are bound by reading weights: sums of a group are kept apart and scaled once, in several
chains that hide the latency of adds. Many rows are bound by multiply-adds: weights are scaled
before, once for a whole tile of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels import float8, matmul
from relaxc.targets.llvm.kernels.arithmetic import FLOAT32, Registers
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, vector
from relaxc.targets.llvm.kernels.constants import GroupedWeight, WeightKind
from relaxc.targets.llvm.kernels.matmul import Tiling
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View

_VECTORS = 2
# Rows below which reading weights takes longer than multiplying them.
_FEW = 4
# Rows of weights that one step takes.
_STEP = 8
# Bytes ahead in the panel.
_PREFETCH = 8192


def choose_tiling(rows: Any, columns: int, lanes: int, registers: int) -> Tiling:
    """Panels of two vectors, whatever the number of rows: they are packed for all."""
    if isinstance(rows, int) and rows < _FEW:
        return Tiling(rows, min(_VECTORS, -(-columns // lanes)), rows)
    return matmul.choose_tiling(rows, columns, lanes, free_registers(registers))


def free_registers(registers: int) -> int:
    """How many there are beside scales and zero points of two vectors."""
    return registers - 4


Declare = Callable[[str, np.ndarray], Buffer]


@dataclass(frozen=True)
class Packed:
    """Weights as the kernel reads them, padded to whole panels.

    Attributes:
        weight: four bits: int32 [panel, depth / 8, columns]; eight: int8 [panel, depth, columns],
            less 128; float8: likewise as it is, or int32 [panel, depth / 4, columns].
        scale: float32 [panel, group, columns]; of float8, times the factor that numbers lack.
        zero_point: four bits: uint8, likewise; eight: int8, less 128; None where all are the same.
        middle: what all are, in the same way.
    """

    weight: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None
    middle: int | None


def pack(weight: GroupedWeight, tiling: Tiling, lanes: int, looks_up: bool = False) -> Packed:
    """Lay weights out in panels; `looks_up` is about float8."""
    width = tiling.vectors * lanes

    def panels(array: np.ndarray) -> np.ndarray:
        rows, columns = array.shape
        padded = np.pad(array, ((0, 0), (0, -columns % width)))
        return np.ascontiguousarray(padded.reshape(rows, -1, width).transpose(1, 0, 2))

    def signed(array: np.ndarray) -> np.ndarray:
        return (array.astype(np.int16) - 128).astype(np.int8)

    integers, zeros, middle = panels(weight.integers), panels(weight.zero_point), weight.middle
    if weight.kind == "float8":
        factor = np.float32(float8.factor(looks_up))
        codes = float8.interleaved(integers) if looks_up else integers.view(np.int8)
        return Packed(codes, panels(weight.scale * factor), None, None)
    if weight.kind == "int8":
        integers, zeros = signed(integers), signed(zeros)
        middle = None if middle is None else middle - 128
    else:
        count, depth, _ = integers.shape
        nibbles = integers.reshape(count, depth // _STEP, _STEP, width).astype(np.uint32)
        shifts = np.arange(0, 32, 4, dtype=np.uint32).reshape(-1, 1)
        integers = np.bitwise_or.reduce(nibbles << shifts, axis=2).view(np.int32)
    return Packed(integers, panels(weight.scale), zeros if middle is None else None, middle)


@dataclass(frozen=True)
class Weights:
    """Buffers of `Packed`.

    Attributes:
        kind: of the elements.
        size: rows of a group.
        middle: the zero point of all, where there is none for each group.
    """

    kind: WeightKind
    size: int
    middle: int | None
    weight: Buffer
    scale: Buffer
    zero_point: Buffer | None


def emit(
    b: KernelBuilder, x: View, weights: Weights, y: View, operands: Operands, tiling: Tiling
) -> None:
    """Write the kernel: y[r, :] = epilogue(x[r, :] @ weights) for each row r.

    `x` and `y` are channels-last views with rows as pixels; their number may be symbolic.
    """
    _Writer(b, x, weights.weight, y, operands, tiling, FLOAT32, weights).write()


@dataclass(frozen=True)
class _Writer(matmul.Writer):
    weights: Weights

    def _tile(
        self, panel: Index, row: Index, size: int, blocks: int, tail: int, visit: matmul.Visit
    ) -> None:
        """`size` rows by `blocks` vectors, the last of which has `tail` columns."""
        b = self.b
        first = b.let(panel * self.tiling.vectors)
        acc = self._zeros(size, blocks)
        base = b.let(self.x.at(0, 0, 0, row))
        groups = self.x.channels // self.weights.size
        with b.loop(groups) as g:
            where = b.let((panel * groups + g) * (self.tiling.vectors * b.lanes))
            if size < _FEW:
                self._few_rows(acc, panel, base, g, where)
            else:
                self._many_rows(acc, panel, base, g, where)
        self._store(acc, first, row, tail)

    def _zeros(self, rows: int, blocks: int) -> Registers:
        return FLOAT32.accumulators(self.b, rows, 0, blocks)

    def _few_rows(self, acc: Registers, panel: Index, base: Index, g: Index, where: Index) -> None:
        """Add the products of a group: integers first, then their sum times the scale."""
        b, weights = self.b, self.weights
        blocks, rows = len(acc), len(acc[0])
        chains = max(1, 8 // (blocks * rows))
        sums = [self._zeros(rows, blocks) for _ in range(chains)]
        # Of the data, for zero points.
        totals = [b.register() for _ in range(rows)]
        if weights.zero_point is not None:
            for total in totals:
                total.set(b.splat(0.0))
        with b.loop(weights.size // _STEP) as step:
            k = b.let(g * weights.size + step * _STEP)
            for i, loaded in enumerate(self._integers(panel, k, blocks)):
                for r in range(rows):
                    value = b.let(b.broadcast(self.x.buffer, base + r * self.x.pixel + (k + i)))
                    if weights.zero_point is not None:
                        totals[r].set(totals[r].get() + value)
                    for v in range(blocks):
                        register = sums[i % chains][v][r]
                        register.set(register.get() + value * loaded[v])
        for v in range(blocks):
            scale = b.let(b.load(weights.scale, where + v * b.lanes))
            for r in range(rows):
                total = sums[0][v][r].get()
                for chain in sums[1:]:
                    total = total + chain[v][r].get()
                if weights.zero_point is not None:
                    total = total - totals[r].get() * self._zero_point(where, v)
                acc[v][r].set(acc[v][r].get() + total * scale)

    def _many_rows(self, acc: Registers, panel: Index, base: Index, g: Index, where: Index) -> None:
        """Add the products of a group with weights that are scaled already."""
        b, weights = self.b, self.weights
        blocks, rows = len(acc), len(acc[0])
        scales = [b.let(b.load(weights.scale, where + v * b.lanes)) for v in range(blocks)]
        offsets = [b.splat(0.0)] * blocks
        if weights.zero_point is not None:
            offsets = [b.let(self._zero_point(where, v) * scales[v]) for v in range(blocks)]
        with b.loop(weights.size // _STEP) as step:
            k = b.let(g * weights.size + step * _STEP)
            for i, loaded in enumerate(self._integers(panel, k, blocks)):
                factors = [
                    b.let(w * s - o if weights.zero_point is not None else w * s)
                    for w, s, o in zip(loaded, scales, offsets)
                ]
                for r in range(rows):
                    value = b.let(b.broadcast(self.x.buffer, base + r * self.x.pixel + (k + i)))
                    for v in range(blocks):
                        acc[v][r].set(acc[v][r].get() + value * factors[v])

    def _zero_point(self, where: Index, block: int) -> Expr:
        b = self.b
        assert self.weights.zero_point is not None
        return self._float(b.load(self.weights.zero_point, where + block * b.lanes))

    def _float(self, integers: Expr) -> Expr:
        lanes = self.b.lanes
        wide = tirx.Cast(vector("int32", lanes), integers)
        return tirx.Cast(vector("float32", lanes), wide)

    def _integers(self, panel: Index, k: Index, blocks: int) -> list[list[Expr]]:
        """Of `_STEP` rows from `k` on, the weights of each block, less a common zero point."""
        b, weights, middle = self.b, self.weights, self.weights.middle or 0
        width, depth = self.tiling.vectors * b.lanes, self.x.channels
        if weights.kind == "int4":
            at = b.let(panel * (depth // _STEP * width) + k // _STEP * width)
            for v in range(blocks):
                b.prefetch(weights.weight, at + (_PREFETCH // 4 + v * b.lanes), 3)
            words = [b.let(b.load(weights.weight, at + v * b.lanes)) for v in range(blocks)]

            def value(word: Expr, i: int) -> Expr:
                shift = b.splat(4 * i, dtype="int32")
                return b.let(b.nibble(tirx.shift_right(word, shift) if i else word, middle))

            return [[value(word, i) for word in words] for i in range(_STEP)]
        if weights.kind == "float8" and weights.weight.dtype == "int32":
            return self._looked_up(panel, k, blocks)
        at = b.let(panel * (depth * width) + k * width)
        for line in range(_STEP * blocks * b.lanes // 64):
            b.prefetch(weights.weight, at + (_PREFETCH + line * 64), 3)

        def byte(i: int, v: int) -> Expr:
            loaded = b.load(weights.weight, at + (i * width + v * b.lanes))
            if weights.kind == "float8":
                return b.let(float8.moved(loaded, b.lanes))
            real = self._float(loaded)
            return b.let(real - b.splat(middle) if middle else real)

        return [[byte(i, v) for v in range(blocks)] for i in range(_STEP)]

    def _looked_up(self, panel: Index, k: Index, blocks: int) -> list[list[Expr]]:
        """The same of float8, four rows of which are in a vector."""
        b, weight = self.b, self.weights.weight
        width, depth = self.tiling.vectors * b.lanes, self.x.channels
        at = b.let(panel * (depth // float8.ROWS * width) + k // float8.ROWS * width)
        result: list[list[Expr]] = []
        for row in range(float8.ROWS):
            b.define(float8.definition(row))
        for first in range(0, _STEP // float8.ROWS * width, width):
            for v in range(blocks):
                b.prefetch(weight, at + (_PREFETCH // 4 + first + v * b.lanes), 3)
            words = [b.let(b.load(weight, at + (first + v * b.lanes))) for v in range(blocks)]
            for row in range(float8.ROWS):
                result.append([b.let(float8.looked_up(word, row)) for word in words])
        return result


def declare(constant: Declare, scales: Declare, packed: Packed, weight: GroupedWeight) -> Weights:
    """Make packed weights parameters of a kernel, by what declares one, and one of scales."""
    zero = packed.zero_point
    return Weights(
        weight.kind,
        weight.size,
        packed.middle,
        constant("w", packed.weight),
        scales("scale", packed.scale),
        None if zero is None else constant("zero_point", zero),
    )
