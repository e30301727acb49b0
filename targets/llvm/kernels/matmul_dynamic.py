"""Matrix product whose float32 data become int8 on the way, times weights of four or eight bits.

First the rows are rounded to int8, with a scale per row and group of the weight's rows; then bytes
are multiplied as in any integer product, and the sum of each group is scaled by both scales:

    y[r, c] = sum over groups g of  sx[r, g] * sw[g, c] * (sum(x * w) - zero[g, c] * sum(x))

Weights are the unsigned operand of the dot products, data the signed one: nibbles need a mask and a
shift only, and zero points cost nothing but a sum per row and group. Nibble 2 i of an int32 belongs
to row i of eight, nibble 2 i + 1 to row 4 + i, so that both halves are four neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels import matmul
from relaxc.targets.llvm.kernels.arithmetic import UINT8, Registers
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, vector
from relaxc.targets.llvm.kernels.constants import GroupedWeight
from relaxc.targets.llvm.kernels.matmul import Tiling
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.rows import across
from relaxc.targets.llvm.kernels.view import View

# Rows of weights that an int32 holds, by bits.
_STEP = {4: 8, 8: 4}
_LARGEST = 127.0
# Of a panel for few rows. LLVM unrolls a group's steps and puts their prefetches in one place:
# those of wider panels wait for each other.
_VECTORS = 4
# What a row of zeros is scaled by.
_TINY = 1e-30
# Bytes ahead in the panel, by bits.
_PREFETCH = {4: 8192, 8: 4096}


def choose_tiling(
    rows: Any, columns: int, weight: GroupedWeight, lanes: int, registers: int
) -> Tiling:
    """A tile of one or two registers per sum: the group's, and that of all groups."""
    if weight.size == len(weight.integers):
        return matmul.choose_tiling(rows, columns, lanes, registers)
    blocks = -(-columns // lanes)
    if isinstance(rows, int) and rows < 4:
        vectors = min(blocks, max(1, (registers - 6) // (3 * rows)), _VECTORS)
        # A panel is a task: each thread should have a few.
        while vectors > 2 and blocks // vectors < 8:
            vectors -= 1
        return Tiling(rows, vectors, rows)
    return matmul.choose_tiling(rows, columns, lanes, free_registers(weight, registers))


def free_registers(weight: GroupedWeight, registers: int) -> int:
    """How many there are for the sums of a tile, and for what is multiplied."""
    return registers if weight.size == len(weight.integers) else (registers - 2) // 2


def pack(weight: GroupedWeight, tiling: Tiling, lanes: int) -> tuple[np.ndarray, ...]:
    """Integers as int32 [panel, step, columns]; scales and zero points [panel, group, columns]."""
    width = tiling.vectors * lanes

    def panels(array: np.ndarray) -> np.ndarray:
        rows, columns = array.shape
        padded = np.pad(array, ((0, 0), (0, -columns % width)))
        return np.ascontiguousarray(padded.reshape(rows, -1, width).transpose(1, 0, 2))

    step = _STEP[weight.bits]
    integers = panels(weight.integers)
    count, depth, _ = integers.shape
    parts = integers.reshape(count, depth // step, step, width).astype(np.uint32)
    if weight.bits == 4:
        parts = parts[:, :, [0, 4, 1, 5, 2, 6, 3, 7]]
    shifts = np.arange(0, 32, 32 // step, dtype=np.uint32).reshape(-1, 1)
    words = np.bitwise_or.reduce(parts << shifts, axis=2).view(np.int32)
    zeros = () if weight.middle is not None else (panels(weight.zero_point),)
    return words, panels(weight.scale), *zeros


@dataclass(frozen=True)
class Weights:
    """Packed weights as a kernel's parameters.

    Attributes:
        bits: 4 or 8.
        size: rows of a group.
        middle: the zero point of all, where there is none for each group.
    """

    bits: int
    size: int
    middle: int | None
    weight: Buffer
    scale: Buffer
    zero_point: Buffer | None

    @staticmethod
    def declare(
        constant: Callable[[str, np.ndarray], Buffer],
        scales: Callable[[str, np.ndarray], Buffer],
        packed: tuple[np.ndarray, ...],
        weight: GroupedWeight,
    ) -> Weights:
        """Declare them, by what declares one, and one of scales."""
        words, scale = constant("w", packed[0]), scales("scale", packed[1])
        zero = constant("zero_point", packed[2]) if len(packed) > 2 else None
        return Weights(weight.bits, weight.size, weight.middle, words, scale, zero)


@dataclass(frozen=True)
class _Rounded:
    """Rows as int8, four to an int32, and per row and group their scale and their sum."""

    data: Buffer
    scale: Buffer
    total: Buffer


def emit(
    b: KernelBuilder, x: View, weights: Weights, y: View, operands: Operands, tiling: Tiling
) -> None:
    """Write the kernel: y[r, :] = epilogue(rounded(x[r, :]) @ weights) for each row r."""
    rounded = _round_rows(b, x, weights.size)
    _Writer(b, x, weights.weight, y, operands, tiling, UINT8, weights, rounded).write()


def _round_rows(b: KernelBuilder, x: View, size: int) -> _Rounded:
    depth, groups, rows = x.channels, x.channels // size, x.width
    data = b.workspace(rows * depth, "int8", "rounded")
    scale = b.workspace(rows * groups, "float32", "row_scale")
    total = b.workspace(rows * groups, "int32", "row_total")
    few = isinstance(rows, int) and rows < 8
    with b.loop(rows) if few else b.parallel(rows) as r, b.loop(groups) as g:
        base, first = b.let(x.at(0, 0, 0, r)), b.let(g * size)
        largest, sums = b.register(), b.register("int32")
        largest.set(b.splat(_TINY))
        sums.set(b.splat(0, dtype="int32"))

        def each(body: Callable[[Index, int], None], first: Index = first) -> None:
            whole, rest = divmod(size, b.lanes)
            if whole:
                with b.loop(whole) as i:
                    body(b.let(first + i * b.lanes), b.lanes)
            if rest:
                body(b.let(first + whole * b.lanes), rest)

        def measure(at: Index, count: int, base: Index = base, largest: Any = largest) -> None:
            value = b.let(b.load_partial(x.buffer, base + at, count))
            largest.set(tirx.max(largest.get(), tirx.max(value, b.splat(0.0) - value)))

        each(measure)
        top = b.let(across(b, largest.get(), tirx.max))
        b.store(scale, r * groups + g, top * tirx.FloatImm("float32", 1 / _LARGEST), 1)
        inverse = b.let(b.splat(tirx.FloatImm("float32", _LARGEST) / top))

        def store(
            at: Index, count: int, r: Index = r, base: Index = base, sums: Any = sums
        ) -> None:
            value = b.load_partial(x.buffer, base + at, count) * inverse
            whole = b.let(tirx.Cast(vector("int32", b.lanes), tirx.nearbyint(value)))
            sums.set(sums.get() + whole)
            narrow = b.let(tirx.Cast(vector("int8", b.lanes), whole))
            b.store_partial(data, r * depth + at, narrow, count)

        each(store)
        b.store(total, r * groups + g, across(b, sums.get(), lambda a, c: a + c), 1)
    return _Rounded(b.grouped(data, 4), scale, total)


@dataclass(frozen=True)
class _Writer(matmul.Writer):
    weights: Weights
    rounded: _Rounded

    def _tile(
        self, panel: Index, row: Index, size: int, blocks: int, tail: int, visit: matmul.Visit
    ) -> None:
        """`size` rows by `blocks` vectors, the last of which has `tail` columns."""
        b, weights = self.b, self.weights
        first = b.let(panel * self.tiling.vectors)
        groups = self.x.channels // weights.size
        acc: Registers = [[b.register() for _ in range(size)] for _ in range(blocks)]
        if groups > 1:
            for registers in acc:
                for register in registers:
                    register.set(b.splat(0.0))
        with b.loop(groups) as g:
            where = b.let((panel * groups + g) * (self.tiling.vectors * b.lanes))
            sums = self._group(panel, row, g, size, blocks, where)
            for v in range(blocks):
                scale = b.let(b.load(weights.scale, where + v * b.lanes))
                for r in range(size):
                    at = (row + r) * groups + g
                    factor = b.let(b.broadcast(self.rounded.scale, at) * scale)
                    real = tirx.Cast(vector("float32", b.lanes), sums[v][r].get())
                    product = real * factor
                    acc[v][r].set(product if groups == 1 else acc[v][r].get() + product)
        self._store(acc, first, row, tail)

    def _group(
        self, panel: Index, row: Index, g: Index, size: int, blocks: int, where: Index
    ) -> Registers:
        """Sums of integer products over a group, less those of zero points."""
        b, weights, x = self.b, self.weights, self.x
        groups, width = x.channels // weights.size, self.tiling.vectors * b.lanes
        step = _STEP[weights.bits]
        sums: Registers = [[b.register("int32") for _ in range(size)] for _ in range(blocks)]
        zeros = [
            b.splat(weights.middle or 0, dtype="int32")
            if weights.zero_point is None
            else b.let(self._zero_point(where, v))
            for v in range(blocks)
        ]
        for r in range(size):
            total = b.let(b.broadcast(self.rounded.total, (row + r) * groups + g))
            for v in range(blocks):
                sums[v][r].set(b.splat(0, dtype="int32") - total * zeros[v])
        steps = weights.size // step
        start = b.let((panel * groups + g) * (steps * width))
        base = b.let(row * (x.channels // 4) + g * (weights.size // 4))
        with b.loop(steps) as k:
            at = b.let(start + k * width)
            for v in range(blocks):
                b.prefetch(weights.weight, at + (_PREFETCH[weights.bits] // 4 + v * b.lanes), 3)
            words = [b.let(b.load(weights.weight, at + v * b.lanes)) for v in range(blocks)]
            for half, operands in enumerate(self._operands(words)):
                for r in range(size):
                    where_x = base + r * (x.channels // 4) + (k * (step // 4) + half)
                    value = b.let(b.broadcast(self.rounded.data, where_x))
                    for v in range(blocks):
                        sums[v][r].set(b.dot_uint8(sums[v][r].get(), operands[v], value))
        return sums

    def _operands(self, words: list[Expr]) -> list[list[Expr]]:
        """Four bytes per lane, for each four rows that the words hold."""
        b = self.b
        if self.weights.bits == 8:
            return [words]
        mask, shift = (b.splat(n, dtype="int32") for n in (0x0F0F0F0F, 4))
        return [
            [b.let(tirx.bitwise_and(word, mask)) for word in words],
            [b.let(tirx.bitwise_and(tirx.shift_right(word, shift), mask)) for word in words],
        ]

    def _zero_point(self, where: Index, block: int) -> Expr:
        b = self.b
        assert self.weights.zero_point is not None
        loaded = b.load(self.weights.zero_point, where + block * b.lanes)
        return tirx.Cast(vector("int32", b.lanes), loaded)
