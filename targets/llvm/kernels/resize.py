"""Resizing of maps, one or both axes at once, by tables of positions and weights.

Tasks are blocks of rows of the result. The rows of the data that a block reads are resized along
the columns first, into memory that stays in the cache, and then added up row by row. Sixteen
neighbouring columns of a result come from two vectors of the data at most, which positions are
picked out of in registers (`vpermi2ps`): numbers of vectors and lanes are known at compile time.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.loops import grid
from relaxc.targets.llvm.kernels.streaming import fence, stream

# Positions picked out of one register, and out of two.
_PICK = """
declare <16 x float> @llvm.x86.avx512.permvar.sf.512(<16 x float>, <16 x i32>)
define <16 x float> @relaxc_pick(<16 x float> %x, <16 x i32> %i) {
  %r = call <16 x float> @llvm.x86.avx512.permvar.sf.512(<16 x float> %x, <16 x i32> %i)
  ret <16 x float> %r
}
"""
_PICK2 = """
declare <16 x float> @llvm.x86.avx512.vpermi2var.ps.512(<16 x float>, <16 x i32>, <16 x float>)
define <16 x float> @relaxc_pick2(<16 x float> %x, <16 x i32> %i, <16 x float> %y) {
  %r = call <16 x float> @llvm.x86.avx512.vpermi2var.ps.512(
    <16 x float> %x, <16 x i32> %i, <16 x float> %y)
  ret <16 x float> %r
}
"""
LANES = 16
# Bytes of resized rows that a task keeps, and tasks that are enough for threads.
_ROWS_BYTES = 64 << 10
_TASKS = 32


@dataclass(frozen=True)
class Taps:
    """How an axis is resized.

    Attributes:
        places: [new, taps]: positions on the old axis.
        weights: likewise, what they are multiplied by; None copies, for one tap.
    """

    places: np.ndarray
    weights: np.ndarray | None

    @property
    def count(self) -> int:
        """Terms of a sum."""
        return int(self.places.shape[1])


@dataclass(frozen=True)
class Picks:
    """Columns as vectors that are picked out of one or two vectors of a row.

    Attributes:
        vectors: of the result.
        sources: vectors that one of the result comes from.
        starts: [vector]: where these begin.
        lanes: [vector, tap, lane]: which element of them.
        weights: likewise; None copies.
    """

    vectors: int
    sources: int
    starts: np.ndarray
    lanes: np.ndarray
    weights: np.ndarray | None

    @staticmethod
    def of(taps: Taps, width: int) -> Picks | None:
        """The picks for rows of `width` elements; None where two vectors do not hold them."""
        new, count = taps.places.shape
        vectors = -(-new // LANES)
        last = np.minimum(np.arange(vectors * LANES), new - 1)
        places = taps.places[last].reshape(vectors, LANES, count)
        low, high = places.min(axis=(1, 2)), places.max(axis=(1, 2))
        span = int((high - low).max()) + 1
        if span > 2 * LANES:
            return None
        sources = 1 if span <= LANES or width <= LANES else 2
        starts = np.clip(low, 0, max(0, width - sources * LANES))
        lanes = (places - starts[:, None, None]).transpose(0, 2, 1)
        weights = None
        if taps.weights is not None:
            weights = taps.weights[last].reshape(vectors, LANES, count).transpose(0, 2, 1)
            weights = np.ascontiguousarray(weights, np.float32)
        return Picks(vectors, sources, starts.astype(np.int32), lanes.astype(np.int32), weights)


@dataclass(frozen=True)
class Blocks:
    """Rows of the result by task.

    Attributes:
        rows: of a block.
        count: of blocks.
        most: rows of the data that one reads.
        firsts, counts: [block]: which ones.
        places: [row, tap]: row of the block's.
    """

    rows: int
    count: int
    most: int
    firsts: np.ndarray
    counts: np.ndarray
    places: np.ndarray

    @staticmethod
    def of(places: np.ndarray, planes: Index, row_bytes: int) -> Blocks:
        """The largest blocks whose rows stay in the cache, and of which there are enough."""
        new = len(places)
        rows = new
        if isinstance(planes, int):
            rows = max(1, min(rows, new * planes // _TASKS))
        blocks = _split(places, rows)
        while rows > 1 and blocks.most * row_bytes > _ROWS_BYTES:
            rows = -(-rows // 2)
            blocks = _split(places, rows)
        return blocks


def _split(places: np.ndarray, rows: int) -> Blocks:
    count = -(-len(places) // rows)
    parts = [places[i * rows : (i + 1) * rows] for i in range(count)]
    firsts = np.array([part.min() for part in parts], np.int32)
    counts = np.array([part.max() + 1 - part.min() for part in parts], np.int32)
    local = np.concatenate([part - first for part, first in zip(parts, firsts)])
    return Blocks(rows, count, int(counts.max()), firsts, counts, local.astype(np.int32))


@dataclass(frozen=True)
class ResizeSpec:
    """What to resize.

    Attributes:
        planes: number of maps.
        height, width: of a map.
        rows: how rows become rows; None keeps them.
        columns: likewise, columns.
    """

    planes: Index
    height: int
    width: int
    rows: Taps | None
    columns: Taps | None

    @property
    def new_height(self) -> int:
        """Rows of a result."""
        return self.height if self.rows is None else len(self.rows.places)

    @property
    def new_width(self) -> int:
        """Columns of a result."""
        return self.width if self.columns is None else len(self.columns.places)


class ResizeWriter:
    """Writes one kernel.

    Attributes:
        constants: the tables, in the order of the parameters that are declared between the
            data's and the result's.
    """

    def __init__(self, b: KernelBuilder, spec: ResizeSpec, picks: Picks | None) -> None:
        self.b, self.spec, self.picks = b, spec, picks
        rows = spec.rows or Taps(np.arange(spec.height)[:, None], None)
        self.taps = rows.count
        pitch = spec.width if picks is None else picks.vectors * LANES
        self.pitch = pitch
        self.blocks = Blocks.of(rows.places, spec.planes, 4 * pitch)
        self.constants: list[np.ndarray] = []
        self.firsts, self.counts = self._table(self.blocks.firsts), self._table(self.blocks.counts)
        self.places = self._table(self.blocks.places)
        self.weights = None if rows.weights is None else self._table(rows.weights)
        if picks is not None:
            self.starts, self.lanes = self._table(picks.starts), self._table(picks.lanes)
            self.factors = None if picks.weights is None else self._table(picks.weights)

    def _table(self, values: np.ndarray) -> Buffer:
        self.constants.append(np.ascontiguousarray(values))
        name = f"table{len(self.constants)}"
        return self.b.param(name, values.shape, values.dtype.name)

    def write(self, x: Buffer, y: Buffer, streams: bool) -> None:
        """Write the loops."""
        b, spec, blocks = self.b, self.spec, self.blocks

        def task(indices: list[Expr], _task: Expr) -> None:
            plane, block = indices
            first = b.let(self._entry(self.firsts, block))
            at = b.let((plane * spec.height + first) * spec.width)
            source, start = x, at
            if self.picks is not None:
                source, start = b.workspace(blocks.most * self.pitch), 0
                with b.loop(b.let(self._entry(self.counts, block))) as i:
                    self._columns(x, b.let(at + i * spec.width), source, b.let(i * self.pitch))
            with b.loop(self._rows_of(block)) as i:
                row = b.let(block * blocks.rows + i)
                target = b.let((plane * spec.new_height + row) * spec.new_width)
                self._row(source, start, row, y, target, streams)

        finish = functools.partial(fence, b) if streams else None
        work = spec.planes * (spec.new_height * spec.new_width * self.taps)
        grid(b, [spec.planes, blocks.count], work, task, ask=False, finish=finish)

    def _rows_of(self, block: Expr) -> Index:
        rows, total = self.blocks.rows, self.spec.new_height
        if total % rows == 0:
            return rows
        return self.b.let(tirx.min(rows, total - block * rows))

    def _entry(self, table: Buffer, at: Index) -> Expr:
        return tirx.Cast("int64", self.b.load(table, at, 1))

    def _columns(self, x: Buffer, at: Expr, target: Buffer, to: Expr) -> None:
        """Resize a row of the data along its columns."""
        b, picks = self.b, self.picks
        assert picks is not None
        b.define(_PICK if picks.sources == 1 else _PICK2)
        width = self.spec.width
        with b.loop(picks.vectors) as v:
            start = b.let(at + self._entry(self.starts, v))
            counts = [min(LANES, width - i * LANES) for i in range(picks.sources)]
            parts = [
                b.let(b.load_partial(x, start + i * LANES, count)) for i, count in enumerate(counts)
            ]
            total: Expr | None = None
            taps = picks.lanes.shape[1]
            for tap in range(taps):
                entry = b.let((v * taps + tap) * LANES)
                which = b.load(self.lanes, entry)
                value = (
                    tirx.call_extern("float32x16", "relaxc_pick", parts[0], which)
                    if picks.sources == 1
                    else tirx.call_extern("float32x16", "relaxc_pick2", parts[0], which, parts[1])
                )
                if self.factors is not None:
                    value = value * b.load(self.factors, entry)
                total = b.let(value if total is None else total + value)
            b.store(target, to + v * LANES, total)

    def _row(
        self, source: Buffer, start: Index, row: Expr, y: Buffer, target: Expr, streams: bool
    ) -> None:
        """Add up a row of the result."""
        b, width, lanes = self.b, self.spec.new_width, self.b.lanes
        places, factors = [], []
        for tap in range(self.taps):
            entry = row * self.taps + tap
            places.append(b.let(start + self._entry(self.places, entry) * self.pitch))
            if self.weights is not None:
                factors.append(b.let(b.broadcast(self.weights, entry)))

        def value(at: Index, count: int) -> Expr:
            # Rows of the cache are whole vectors.
            parts = [
                b.load(source, place + at)
                if self.picks is not None
                else b.load_partial(source, place + at, count)
                for place in places
            ]
            if not factors:
                return parts[0]
            total = parts[0] * factors[0]
            for part, factor in zip(parts[1:], factors[1:]):
                total = total + part * factor
            return b.let(total)

        whole, rest = divmod(width, lanes)
        with b.loop(whole) as v:
            at = b.let(v * lanes)
            if streams:
                stream(b, y, target + at, value(at, lanes), lanes)
            else:
                b.store(y, target + at, value(at, lanes))
        if rest:
            b.store_partial(y, target + whole * lanes, value(whole * lanes, rest), rest)
