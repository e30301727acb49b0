"""Matrix product with constant weights: rows of data by panels of packed weights.

A register tile of rows by vectors accumulates over the whole depth; weights are packed in panels
of a few vectors, [panel][depth][columns], read once per row tile in order. While a panel is in use
the lines ahead are prefetched, which matters once weights come from memory. The number of rows may
be symbolic: the last tile then overlaps its neighbour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.arithmetic import Arithmetic, Registers
from relaxc.targets.llvm.kernels.builder import Buffer, Index, KernelBuilder, even_tiles
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View


@dataclass(frozen=True)
class Tiling:
    """How a product is cut.

    Attributes:
        rows: rows of a register tile.
        vectors: vectors of columns of a register tile, and width of a panel.
        chunk: rows that one task takes with a panel.
        prefetch: steps of depth ahead in the panel that are fetched meanwhile; 0 fetches none.
        unroll: steps of depth per iteration of the innermost loop.
        rows_outer: whether threads share out rows first, and panels of weights second.
    """

    rows: int
    vectors: int
    chunk: int
    prefetch: int = 32
    unroll: int = 1
    rows_outer: bool = False


def choose_tiling(rows: Any, columns: int, lanes: int, registers: int) -> Tiling:
    """A tile that keeps at least eight multiply-adds in flight and spills nothing."""
    blocks = -(-columns // lanes)
    if isinstance(rows, int) and rows < 4:
        # Few rows: bound by reading weights; several vectors hide the latency of the adds.
        vectors = min(blocks, max(1, (registers - 4) // (2 * rows)), 8)
        return Tiling(rows, vectors, rows)
    vectors = min(2, blocks)
    largest = min((registers - 1 - vectors) // vectors, 8 if lanes == 16 else 6)
    if not isinstance(rows, int):
        return Tiling(largest, vectors, 16 * largest)
    largest = max(size for _, size, _ in even_tiles(rows, largest))
    # More data than weights: a core reads rows that it wrote before, and keeps weights in L2.
    return Tiling(largest, vectors, 16 * largest, rows_outer=rows > columns)


def tilings(rows: int, columns: int, lanes: int, registers: int) -> Iterator[Tiling]:
    """All tilings that spill nothing, of which one may be faster than the chosen one."""
    blocks = -(-columns // lanes)
    for vectors in (1, 2, 3, 4, 6, 8):
        largest = min((registers - 1 - vectors) // vectors, rows, 14)
        if vectors > blocks or largest < 1:
            continue
        sizes = {max(size for _, size, _ in even_tiles(rows, n)) for n in range(1, largest + 1)}
        for size in sorted(sizes)[-4:]:
            chunks = {min(size * steps, rows) for steps in (4, 16, 64)} | {16 * size}
            for chunk, prefetch, unroll in itertools.product(
                sorted(chunks), (32, 0, 8, 128), (1, 2, 4)
            ):
                yield Tiling(size, vectors, chunk, prefetch, unroll, rows > columns)


def pack_weights(
    weight: np.ndarray, tiling: Tiling, lanes: int, arithmetic: Arithmetic
) -> np.ndarray:
    """[depth, columns] -> [panel][depth / group][vectors * lanes], padded with zeros."""
    depth, columns = weight.shape
    width = tiling.vectors * lanes
    padded = np.pad(weight, ((0, 0), (0, -columns % width)))
    packed = padded.reshape(depth, -1, width).transpose(1, 0, 2)
    return arithmetic.pack(packed)


def emit(
    b: KernelBuilder,
    x: View,
    weight: Buffer,
    y: View,
    operands: Operands,
    tiling: Tiling,
    arithmetic: Arithmetic,
) -> None:
    """Write the kernel: y[r, :] = epilogue(x[r, :] @ weight) for each row r.

    `x` and `y` are channels-last views with rows as pixels; their number may be symbolic.
    """
    Writer(b, arithmetic.view(b, x), weight, y, operands, tiling, arithmetic).write()


@dataclass(frozen=True)
class Writer:
    """Shares out register tiles; `_tile` says what one computes."""

    b: KernelBuilder
    x: View
    weight: Buffer
    y: View
    operands: Operands
    tiling: Tiling
    arithmetic: Arithmetic

    @property
    def panels(self) -> int:
        """Panels of weights; the last may be narrower than the others."""
        return -(-self.y.channels // (self.tiling.vectors * self.b.lanes))

    def write(self) -> None:
        """Write the kernel."""
        if isinstance(self.x.width, int):
            self._static_rows(self.x.width)
        else:
            self._symbolic_rows(self.x.width)

    def _static_rows(self, rows: int) -> None:
        """Tasks of a panel and a chunk of rows: each thread reads panels, or rows, of its own."""
        b, chunk = self.b, self.tiling.chunk
        chunks = -(-rows // chunk)
        with b.parallel(chunks * self.panels) as t:
            if self.tiling.rows_outer:
                panel, first = b.let(t % self.panels), b.let(t // self.panels * chunk)
            else:
                panel, first = b.let(t // chunks), b.let(t % chunks * chunk)
            for start, size, count in even_tiles(min(chunk, rows), self.tiling.rows):
                with b.loop(count) as i:
                    row = b.let(first + i * size + start)
                    exists = row + size <= rows if rows > chunk and rows % chunk else None
                    with b.when(exists):
                        self._panel(panel, row, size)
            self._remainder(panel, first, rows)

    def _remainder(self, panel: Index, first: Index, rows: int) -> None:
        """What whole tiles leave over in the last chunk."""
        b, chunk = self.b, self.tiling.chunk
        rest = rows % chunk
        left = rest % self.tiling.rows
        if rows <= chunk or not left:
            return
        with b.when(first >= rows - rest):
            self._panel(panel, first + (rest - left), left)

    def _symbolic_rows(self, rows: Any) -> None:
        """A fixed number of parts per panel, each of whole tiles.

        The last tile is moved back so that it ends with the data; too few rows go one by one.
        """
        b, size, parts = self.b, self.tiling.rows, 2 if self.panels >= 16 else 8
        share = b.let((rows + (parts * size - 1)) // (parts * size) * size)
        with b.parallel(self.panels * parts) as t:
            panel, first = b.let(t // parts), b.let(t % parts * share)
            count = b.let(tirx.min(share, rows - first))
            with b.when(rows >= size), b.loop(b.let((count + (size - 1)) // size)) as i:
                self._panel(panel, b.let(tirx.min(first + i * size, rows - size)), size)
            with b.when(rows < size), b.loop(count) as i:
                self._panel(panel, b.let(first + i), 1)

    def _panel(self, panel: Index, row: Index, size: int) -> None:
        """One register tile of a panel."""
        b, vectors, panels = self.b, self.tiling.vectors, self.panels
        last = self.y.channels - (panels - 1) * vectors * b.lanes
        if last == vectors * b.lanes:
            self._tile(panel, row, size, vectors, b.lanes)
            return
        blocks, tail = -(-last // b.lanes), last % b.lanes or b.lanes
        with b.when(panel < panels - 1 if panels > 1 else None):
            if panels > 1:
                self._tile(panel, row, size, vectors, b.lanes)
        with b.when(panel >= panels - 1 if panels > 1 else None):
            self._tile(panel, row, size, blocks, tail)

    def _tile(self, panel: Index, row: Index, size: int, blocks: int, tail: int) -> None:
        """`size` rows by `blocks` vectors, the last of which has `tail` columns."""
        b, lanes, x = self.b, self.b.lanes, self.x
        depth, width = x.channels // self.arithmetic.group, self.tiling.vectors * lanes
        first = b.let(panel * self.tiling.vectors)
        acc = self.arithmetic.accumulators(b, size, first, blocks)
        start, base = b.let(panel * (depth * width)), b.let(x.at(0, 0, 0, row))
        unroll = 1 if depth % self.tiling.unroll else self.tiling.unroll
        with b.loop(depth // unroll) as step:
            for u in range(unroll):
                k = step * unroll + u
                at = b.let(start + k * width)
                loaded = [b.let(b.load(self.weight, at + v * lanes)) for v in range(blocks)]
                for v in range(blocks if self.tiling.prefetch else 0):
                    b.prefetch(self.weight, at + (self.tiling.prefetch * width + v * lanes), 3)
                for r in range(size):
                    value = b.let(b.broadcast(x.buffer, base + r * x.pixel + k))
                    for v in range(blocks):
                        total = acc[v][r]
                        total.set(self.arithmetic.multiply_add(b, total.get(), value, loaded[v]))
        self._store(acc, first, row, tail)

    def _store(self, acc: Registers, first: Index, row: Index, tail: int) -> None:
        """Apply the epilogue to a tile of sums, [block][row], and store it."""
        b = self.b
        for v, registers in enumerate(acc):
            cb = first + v
            count = tail if v == len(acc) - 1 else b.lanes
            values = [self.arithmetic.result(b, register.get(), cb) for register in registers]
            for r, value in b.each_of(values, rolled=self.operands.epilogue.is_heavy):
                result = b.let(self.operands.apply(b, value, 0, cb, 0, row + r, count))
                b.store_partial(self.y.buffer, self.y.at(0, cb, 0, row + r), result, count)
