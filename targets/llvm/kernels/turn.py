"""Transposes: squares of elements that are turned in registers.

A tile is `side` elements long where the source is contiguous and up to a vector where the target
is: squares of narrow types are turned one by one and joined. The last tile on either axis overlaps
its neighbour. What is written to is walked through lengthwise, since stores take their lines one
at a time; for stores around the caches (streaming.py), rows of the source are read some
lines at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from relaxc.targets.llvm.kernels.builder import LINE, Buffer, Expr, Index, KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.loops import grid
from relaxc.targets.llvm.kernels.streaming import fence, stream

Place = Callable[[Sequence[Index], Index, Index], Expr]

# Bytes of a row of the source that are read together where that pays; where the target's rows are
# so short that what follows them is written soon; and tiles that share memory.
_RUN = 4 * LINE
_LONG_RUN = 16 * LINE
_SHORT = 8 * LINE
_CHUNK = 32
# Tiles ahead for which lines are fetched.
_AHEAD = 2


@dataclass(frozen=True)
class Turn:
    """A transpose of two axes, with others around them.

    Attributes:
        outer: extents of the other axes, outermost first.
        turned, last: extents of the axes along which the source and the target are contiguous.
        source, target: where an element is, given indices of the outer axes, of `turned` and
            of `last`.
        pitch: elements of the target from one index of `turned` to the next; None is unknown.
        streams: whether to store around the caches; rows of the target must begin at lines then.
    """

    outer: Sequence[Index]
    turned: Index
    last: Index
    source: Place
    target: Place
    pitch: Index | None
    streams: bool = False


@dataclass(frozen=True)
class Tile:
    """Sizes of what is turned at once.

    Attributes:
        side: of a square, in elements.
        squares: that lie side by side where the target is contiguous.
        size: bytes of an element.
    """

    side: int
    squares: int
    size: int

    @property
    def width(self) -> int:
        """Elements of the target that lie side by side."""
        return self.side * self.squares

    @staticmethod
    def of(lanes: int, size: int, turned: Index, last: Index) -> Tile | None:
        """The tile for axes of these extents; None if one is known to be too short."""
        # Of narrow types 16 bytes, whose interleaving is one instruction everywhere.
        side = 16 // size if size < 4 else 4 * lanes // size
        if any(isinstance(extent, int) and extent < side for extent in (turned, last)):
            return None
        most = 4 * lanes // (side * size)
        return Tile(side, min(most, last // side) if isinstance(last, int) else 1, size)


def emit_turn(
    b: KernelBuilder,
    turn: Turn,
    tile: Tile,
    source: Buffer,
    target: Buffer,
    parallel: bool = True,
) -> None:
    """Write the loops; both axes must be as long as the tile."""
    _Writer(b, turn, tile, source, target).write(parallel)


class _Writer:
    def __init__(
        self, b: KernelBuilder, turn: Turn, tile: Tile, source: Buffer, target: Buffer
    ) -> None:
        self.b, self.turn, self.tile, self.source, self.target = b, turn, tile, source, target
        self.turned, self.last = simple(turn.turned), simple(turn.last)
        is_narrow = tile.size < 4
        is_short = isinstance(self.last, int) and self.last * tile.size <= _SHORT
        # Whether the target's rows, one after another, are one stretch.
        follows = is_short and turn.pitch == self.last
        # Where they are not, they go on along the innermost of the other axes.
        self.swaps = is_short and not follows and len(turn.outer) > 0
        run = LINE if not (turn.streams or is_narrow) else _LONG_RUN if follows else _RUN
        self.fetches = turn.streams and not follows
        # Tiles in order: of a run, and of a part that shares memory for one.
        self.wide = run // (tile.side * tile.size)
        self.chunk = _CHUNK if is_narrow else 1
        self.length = self.wide * tile.side
        self.collects = is_narrow and not (
            isinstance(self.turned, int) and self.turned < self.length
        )

    def write(self, parallel: bool) -> None:
        turn, tile = self.turn, self.tile
        outer = [simple(extent) for extent in turn.outer]
        down, across = -(-self.turned // tile.side), -(-self.last // tile.width)
        work = self.turned * self.last
        for extent in outer:
            work = work * extent
        extents = [*outer, -(-down // self.wide), -(-across // self.chunk)]
        if self.swaps:
            extents.insert(len(outer) - 1, extents.pop(len(outer)))

        def block(indices: list[Expr], _task: Expr) -> None:
            indices = list(indices)
            if self.swaps:
                indices.insert(len(outer), indices.pop(len(outer) - 1))
            *at, run, part = indices
            self._block(at, run, part, down, across)

        finish = functools.partial(fence, self.b) if turn.streams else None
        grid(self.b, extents, work, block, parallel, finish=finish)

    def _block(
        self, at: Sequence[Index], run: Expr, part: Expr, down: Index, across: Index
    ) -> None:
        """The tiles of a run of the source, and then those of the next rows."""
        b, tile = self.b, self.tile
        whole: Expr | None = None
        if not isinstance(self.turned, int) or self.turned % self.length:
            whole = b.let((run + 1) * self.length <= self.turned)
        if self.collects:
            memory = b.workspace(tile.width * self.length, self.source.dtype)
        with b.loop(_count(b, part, self.chunk, across)) as j:
            step = part * self.chunk + j
            column = b.let(tirx.min(step * tile.width, index(self.last - tile.width)))
            if self.collects:
                with b.when(whole):
                    self._collected(at, b.let(run * self.length), column, memory)
                if whole is None:
                    return
            with (
                b.when(tirx.Not(whole) if self.collects else None),
                b.loop(_count(b, run, self.wide, down)) as i,
            ):
                row = b.let(
                    tirx.min((run * self.wide + i) * tile.side, index(self.turned - tile.side))
                )
                self._direct(at, row, column)

    def _direct(self, at: Sequence[Index], row: Expr, column: Expr) -> None:
        tile = self.tile
        if self.fetches:
            b, ahead = self.b, column + _AHEAD * tile.width
            # Behind the last rows come the first ones of the next run.
            wraps = b.let(tirx.Cast("int64", ahead >= self.last))
            below, beside = b.let(row + wraps * self.length), b.let(ahead - wraps * self.last)
            for k in range(tile.width):
                b.prefetch(self.source, self.turn.source(at, below, beside + k))
        places = [self.turn.source(at, row, column + k) for k in range(tile.width)]
        self._turn(self.source, places, at, row, column)

    def _collected(self, at: Sequence[Index], first: Expr, column: Expr, memory: Buffer) -> None:
        """A run of tiles by way of the cache: a tile of a narrow type takes a part of a line."""
        b, tile, length = self.b, self.tile, self.length
        lanes = LINE // tile.size
        with b.loop(tile.width) as k:
            place = b.let(self.turn.source(at, first, column + k))
            ahead = b.let(self.turn.source(at, first, column + (k + tile.width)))
            for start in range(0, length, lanes):
                b.prefetch(self.source, ahead + start)
            for start in range(0, length, lanes):
                line = b.load(self.source, place + start, lanes)
                b.store(memory, k * length + start, line, lanes)
        with b.loop(self.wide) as i:
            places = [i * tile.side + k * length for k in range(tile.width)]
            self._turn(memory, places, at, b.let(first + i * tile.side), column)

    def _turn(
        self,
        source: Buffer,
        places: Sequence[Expr],
        at: Sequence[Index],
        row: Expr,
        column: Expr,
    ) -> None:
        """The tile whose rows lie at `places`."""
        b, tile = self.b, self.tile
        turn = _interleaved if tile.size < 4 else transpose
        rows = [b.let(b.load(source, place, tile.side)) for place in places]
        squares = [turn(b, rows[i : i + tile.side]) for i in range(0, tile.width, tile.side)]
        picks = [tirx.IntImm("int32", k) for k in range(tile.width)]
        for i, parts in enumerate(zip(*squares)):
            value = parts[0] if len(parts) == 1 else tirx.Shuffle(list(parts), picks)
            place = self.turn.target(at, row + i, column)
            if self.turn.streams:
                stream(b, self.target, place, value, tile.width)
            else:
                b.store(self.target, place, value, tile.width)


def _count(b: KernelBuilder, part: Expr, size: int, total: Index) -> Index:
    """Steps in a part of `size` steps of `total`."""
    if size == 1 or (isinstance(total, int) and total % size == 0):
        return size
    return b.let(tirx.min(index(size), index(total) - part * size))


def transpose(b: KernelBuilder, rows: list[Expr]) -> list[Expr]:
    """Transpose a square of vectors in log2(lanes) rounds of two-vector shuffles."""
    lanes = len(rows)
    distance = 1
    while distance < lanes:
        result: list[Expr] = list(rows)
        low = [i + (lanes - distance if i & distance else 0) for i in range(lanes)]
        high = [i + (lanes if i & distance else distance) for i in range(lanes)]
        for i in range(lanes):
            if i & distance:
                continue
            pair = [rows[i], rows[i + distance]]
            result[i] = b.let(tirx.Shuffle(pair, [tirx.IntImm("int32", k) for k in low]))
            result[i + distance] = b.let(
                tirx.Shuffle(pair, [tirx.IntImm("int32", k) for k in high])
            )
        rows = result
        distance *= 2
    return rows


def _interleaved(b: KernelBuilder, rows: list[Expr]) -> list[Expr]:
    """Transpose a square of vectors by interleaving each with the one half the square below."""
    lanes = len(rows)
    half = lanes // 2
    low = [tirx.IntImm("int32", i // 2 + i % 2 * lanes) for i in range(lanes)]
    high = [tirx.IntImm("int32", half + i // 2 + i % 2 * lanes) for i in range(lanes)]
    for _ in range(lanes.bit_length() - 1):
        pairs = [[rows[i], rows[i + half]] for i in range(half)]
        rows = [b.let(tirx.Shuffle(pair, picks)) for pair in pairs for picks in (low, high)]
    return rows
