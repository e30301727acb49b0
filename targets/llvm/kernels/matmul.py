"""Matrix product with constant weights: rows of data by panels of packed weights.

A register tile of rows by vectors accumulates over the depth; weights are packed in panels of a
few vectors, [panel][depth][columns], read once per row tile in order. A deep panel is used in parts
that stay in L1, by all rows after each other; sums wait in between. Weights come from memory: the
tiles that share a part of a panel fetch the next one, each a piece of it, evenly over their steps.
Where tiles are too few for that, lines ahead in the panel itself are fetched. The number of rows
may be symbolic: the last tile then overlaps its neighbour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.arithmetic import Arithmetic, Registers
from relaxc.targets.llvm.kernels.builder import PARTS, Buffer, Index, KernelBuilder, even_tiles
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
        parts: parts of the depth that are added up one after the other.
        fetch_next: whether tiles fetch the part of a panel that comes next, if they are enough.
    """

    rows: int
    vectors: int
    chunk: int
    prefetch: int = 32
    unroll: int = 1
    rows_outer: bool = False
    parts: int = 1
    fetch_next: bool = True


# Rows that one task takes at most where panels are enough for all threads; sums of so many rows
# stay in L2.
_ROWS_OF_TASK = 256
# Bytes of data that one task reads at most where it can: half of L2.
_DATA_OF_TASK = 512 << 10
# Steps of depth above which a panel is used in parts, and steps of a part at most.
_DEEP, _PART = 1024, 384


def choose_tiling(
    rows: Any, columns: int, lanes: int, registers: int, steps: int | None = None
) -> Tiling:
    """A tile that keeps at least eight multiply-adds in flight and spills nothing.

    Args:
        rows: rows of the data, which may be symbolic.
        columns: columns of the weights.
        lanes, registers: of the machine.
        steps: steps of depth, where the kernel can add them up in parts.
    """
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
    is_tall = rows > _ROWS_OF_TASK or blocks < PARTS * vectors
    fits = 4 * (steps or 0) * 16 * largest <= _DATA_OF_TASK
    # More data than weights: a core reads rows that it wrote before, and keeps weights in L2.
    return Tiling(
        largest,
        vectors,
        (16 if fits else 8) * largest if is_tall else rows,
        rows_outer=rows > columns,
        parts=_depth_parts(steps or 0),
    )


def _depth_parts(steps: int) -> int:
    """Equal parts of the depth, each of which leaves room in L1 for what else a tile reads."""
    if steps < _DEEP:
        return 1
    return next((n for n in range(-(-steps // _PART), 17) if steps % n == 0), 1)


def tilings(rows: int, columns: int, lanes: int, registers: int, steps: int) -> Iterator[Tiling]:
    """All tilings that spill nothing, of which one may be faster than the chosen one."""
    blocks, parts = -(-columns // lanes), _depth_parts(steps)
    for vectors in (1, 2, 3, 4, 6, 8):
        largest = min((registers - 1 - vectors) // vectors, rows, 14)
        if vectors > blocks or largest < 1:
            continue
        sizes = {max(size for _, size, _ in even_tiles(rows, n)) for n in range(1, largest + 1)}
        for size in sorted(sizes)[-4:]:
            chunks = {min(size * steps, rows) for steps in (4, 16, 64)} | {16 * size}
            orders = (rows > columns, rows <= columns) if rows > size else (rows > columns,)
            for chunk, (prefetch, fetch_next), unroll, order in itertools.product(
                sorted(chunks), ((32, True), (32, False), (0, False), (8, False)), (1, 2, 4), orders
            ):
                yield Tiling(size, vectors, chunk, prefetch, unroll, order, parts, fetch_next)


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
class Visit:
    """What a tile does of a panel, and when.

    Attributes:
        turn, turns: its place among the tiles that use a part of a panel one after the other.
        part: the part of the depth that it adds.
        sums: what holds sums between parts, [row][column of the panel].
        row: its first row in `sums`.
    """

    turn: Index = 0
    turns: int = 1
    part: int = 0
    sums: Buffer | None = None
    row: Index = 0


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
            sums = None
            if self._parts > 1:
                sums = b.workspace(min(chunk, rows) * self.tiling.vectors * b.lanes)
            tiles = even_tiles(min(chunk, rows), self.tiling.rows)
            turns = sum(count for _, _, count in tiles)
            for part in range(self._parts):
                before = 0
                for start, size, count in tiles:
                    with b.loop(count) as i:
                        row = b.let(first + i * size + start)
                        exists = row + size <= rows if rows > chunk and rows % chunk else None
                        visit = Visit(i + before, turns, part, sums, i * size + start)
                        with b.when(exists):
                            self._panel(panel, row, size, visit)
                    before += count
            self._remainder(panel, first, rows)

    @property
    def _parts(self) -> int:
        """Parts of the depth: whole steps each, and tasks of equally many rows."""
        rows, parts = self.x.width, self.tiling.parts
        steps = self.x.channels // self.arithmetic.group
        is_even = rows <= self.tiling.chunk or rows % self.tiling.chunk == 0
        can_wait = self.arithmetic.accumulator == "float32"
        return parts if is_even and can_wait and steps % parts == 0 else 1

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

    def _panel(self, panel: Index, row: Index, size: int, visit: Visit = Visit()) -> None:
        """One register tile of a panel."""
        b, vectors, panels = self.b, self.tiling.vectors, self.panels
        last = self.y.channels - (panels - 1) * vectors * b.lanes
        if last == vectors * b.lanes:
            self._tile(panel, row, size, vectors, b.lanes, visit)
            return
        blocks, tail = -(-last // b.lanes), last % b.lanes or b.lanes
        with b.when(panel < panels - 1 if panels > 1 else None):
            if panels > 1:
                self._tile(panel, row, size, vectors, b.lanes, visit)
        with b.when(panel >= panels - 1 if panels > 1 else None):
            self._tile(panel, row, size, blocks, tail, visit)

    def _tile(
        self, panel: Index, row: Index, size: int, blocks: int, tail: int, visit: Visit
    ) -> None:
        """`size` rows by `blocks` vectors, the last of which has `tail` columns."""
        b, lanes, x = self.b, self.b.lanes, self.x
        parts, width = self._parts if visit.sums else 1, self.tiling.vectors * lanes
        depth = x.channels // self.arithmetic.group // parts
        first = b.let(panel * self.tiling.vectors)
        acc = self.arithmetic.accumulators(b, size, first, blocks)
        waiting = []
        if visit.sums is not None:
            for r, v in itertools.product(range(size), range(blocks)):
                waiting.append((acc[v][r], visit.sums, (visit.row + r) * width + v * lanes))
        if visit.part:
            for register, sums, where in waiting:
                register.set(b.load(sums, where))
        start = b.let((panel * parts + visit.part) * (depth * width))
        base = b.let(x.at(0, 0, 0, row) + visit.part * depth)
        unroll = self._steps_per_line(depth, visit.turns)
        prefetch = 0 if unroll else self.tiling.prefetch
        steps = unroll or (1 if depth % self.tiling.unroll else self.tiling.unroll)
        # Once all of it is there, the last piece again: those are hits.
        lines = tirx.min(visit.turn * (depth // steps), depth * (width // lanes) - depth // steps)
        ahead = b.let(start + depth * width + lines * lanes) if unroll else None
        with b.loop(depth // steps) as step:
            if unroll:
                b.prefetch(self.weight, ahead + step * lanes)
            for u in range(steps):
                k = step * steps + u
                at = b.let(start + k * width)
                loaded = [b.let(b.load(self.weight, at + v * lanes)) for v in range(blocks)]
                for v in range(blocks if prefetch else 0):
                    b.prefetch(self.weight, at + (prefetch * width + v * lanes), 3)
                for r in range(size):
                    value = b.let(b.broadcast(x.buffer, base + r * x.pixel + k))
                    for v in range(blocks):
                        total = acc[v][r]
                        total.set(self.arithmetic.multiply_add(b, total.get(), value, loaded[v]))
        if visit.part + 1 < parts:
            for register, sums, where in waiting:
                b.store(sums, where, register.get())
            return
        self._store(acc, first, row, tail)

    def _steps_per_line(self, depth: int, turns: int) -> int:
        """Steps after which a tile fetches a line, so that all fetch a panel; 0 for too few tiles.

        A line is a vector, of which a step reads several.
        """
        if not self.tiling.fetch_next:
            return 0
        sizes = (n for n in (8, 4, 2, 1) if depth % n == 0 and n * self.tiling.vectors <= turns)
        return next(sizes, 0)

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
