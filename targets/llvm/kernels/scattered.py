"""Products and pointwise convolutions of whose weights single ones are zero, wherever they are.

A vector holds one channel of as many pixels as it has lanes, so that a weight is one number, and a
zero one needs no block of others around it. A tile of pixels is transposed on its way in and out:

    transpose the data of a tile of pixels to [input][pixel]
    for some inputs, whose data fit into the first cache:
        for output:
            for input in list:                        # of this output, among these inputs
                total[output] += data[input] * weight # a few vectors of pixels
    transpose the totals back, apply the epilogue

Per weight there are a load of it, one of its place and a load of data per multiply-add; lists of
equal length follow each other, so that the end of a list is foreseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.sparse_plan import ScatteredTile
from relaxc.targets.llvm.kernels.turn import transpose
from relaxc.targets.llvm.kernels.view import View


@dataclass(frozen=True)
class Packed:
    """Weights that are not zero, list by list.

    A list belongs to an output and a range of inputs. Lists are in the order in which they are
    needed: by parts of the outputs, then ranges of inputs, then length.

    Attributes:
        values: float32, of all lists.
        places: int32, where the data of their inputs begin, in a tile.
        ends: int32 [lists + 1], where each list begins, and the last one ends.
        totals: int32 [lists], where the totals of their outputs begin, in those of a part.
        ranges: int32 [parts * ranges + 1], where the lists of each range begin.
    """

    values: np.ndarray
    places: np.ndarray
    ends: np.ndarray
    totals: np.ndarray
    ranges: np.ndarray


def pack(weight: np.ndarray, tile: ScatteredTile, lanes: int) -> Packed:
    """Lay out [out, in] as the kernel reads it."""
    out, depth = weight.shape
    share, pixels = tile.share(out, lanes), tile.vectors * lanes
    values, places, lengths, totals, ranges = [], [], [], [], [0]
    for first in range(0, tile.parts * share, share):
        for start in range(0, depth, tile.inputs):
            block = weight[first : first + share, start : start + tile.inputs]
            counts = np.count_nonzero(block, axis=1)
            for output in np.argsort(counts, kind="stable"):
                if not counts[output]:
                    continue
                kept = np.flatnonzero(block[output])
                fill = np.zeros(-len(kept) % tile.chains, np.int64)
                values += [block[output, kept], fill.astype(np.float32)]
                places += [(start + kept) * pixels, fill]
                lengths.append(len(kept) + len(fill))
                totals.append(output * pixels)
            ranges.append(len(lengths))
    # Never empty: buffers without elements do not exist.
    return Packed(
        np.concatenate([*values, np.zeros(1, np.float32)]).astype(np.float32),
        np.concatenate([*places, np.zeros(1, np.int64)]).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        np.array([*totals, 0], np.int32),
        np.array(ranges, np.int32),
    )


@dataclass(frozen=True)
class Weights:
    """Buffers of `Packed`."""

    values: Buffer
    places: Buffer
    ends: Buffer
    totals: Buffer
    ranges: Buffer


@dataclass(frozen=True)
class Pixels:
    """The pixels of all images, one after the other.

    Attributes:
        batch, height, width: of the result; batch and width may be symbolic.
    """

    batch: Any
    height: int
    width: Any

    @property
    def count(self) -> Any:
        """All of them."""
        return self.batch * self.height * self.width

    def place(self, b: KernelBuilder, at: Index) -> tuple[Index, Index, Index]:
        """Image, row and column of a pixel."""
        if self.height == 1 and isinstance(self.batch, int) and self.batch == 1:
            return 0, 0, at
        row = b.let(at // self.width)
        column = b.let(at % self.width)
        if isinstance(self.batch, int) and self.batch == 1:
            return 0, row, column
        if isinstance(self.batch, int):
            return b.let(row // self.height), b.let(row % self.height), column
        # The simplifier would take long to see that it cannot say more.
        return b.opaque(row // self.height), b.opaque(row % self.height), b.opaque(column)


def emit(
    b: KernelBuilder,
    pixels: Pixels,
    tile: ScatteredTile,
    x: View,
    weights: Weights,
    y: View,
    operands: Operands,
) -> None:
    """Write the kernel; a pixel of the result reads the same one of the data."""
    _Writer(b, pixels, tile, x, weights, y, operands).write()


@dataclass(frozen=True)
class _Writer:
    b: KernelBuilder
    pixels: Pixels
    tile: ScatteredTile
    x: View
    weights: Weights
    y: View
    operands: Operands

    def write(self) -> None:
        """Tasks of a tile of pixels and a part of the outputs."""
        b, tile, y = self.b, self.tile, self.y
        if any(y.layout.border):
            with b.parallel(self.pixels.batch * y.blocks) as t:
                y.zero_borders(b, b.let(t // y.blocks), b.let(t % y.blocks))
        size = tile.vectors * b.lanes
        share = tile.share(y.channels, b.lanes)
        tiles = (self.pixels.count + (size - 1)) // size
        with b.parallel(tile.parts * tiles) as t:
            part, first = b.let(t // tiles), b.let(t % tiles * size)
            data = b.workspace(-(-self.x.channels // b.lanes) * b.lanes * size)
            totals = b.workspace(share * size)
            with b.loop(tile.vectors) as group:
                self._transpose_in(data, b.let(first + group * b.lanes), b.let(group * b.lanes))
            with b.loop(share * tile.vectors) as i:
                b.store(totals, i * b.lanes, b.splat(0.0))
            ranges = -(-self.x.channels // tile.inputs)
            with b.loop(ranges) as r:
                start = b.let(self._entry(self.weights.ranges, part * ranges + r))
                end = self._entry(self.weights.ranges, part * ranges + r + 1)
                with b.loop(b.let(end - start)) as i:
                    self._list(data, totals, b.let(start + i))
            with b.loop(tile.vectors) as group:
                at = b.let(first + group * b.lanes)
                self._transpose_out(totals, part, share, at, b.let(group * b.lanes))

    def _entry(self, buffer: Buffer, at: Index) -> Expr:
        return tirx.Cast("int64", self.b.load(buffer, at, 1))

    def _place(self, at: Index) -> tuple[Index, Index, Index]:
        """A pixel; what would be behind the last one is the last one again."""
        b = self.b
        last = tirx.min(at, self.pixels.count - 1)
        is_known = isinstance(self.pixels.count, int)
        return self.pixels.place(b, b.let(last) if is_known else b.opaque(last))

    def _transpose_in(self, data: Buffer, first: Index, column: Index) -> None:
        """Channels of a vector of pixels."""
        b, x, size = self.b, self.x, self.tile.vectors * self.b.lanes
        places = [self._place(first + i) for i in range(b.lanes)]
        starts = [b.let(x.at(n, 0, h, w)) for n, h, w in places]
        # Blocks of channels are padded, rows of a matrix are not.
        tail = x.channels % b.lanes if x.layout.kind == "last" else 0

        def write(cb: Index, count: int) -> None:
            rows = [b.let(b.load_partial(x.buffer, s + cb * x.plane, count)) for s in starts]
            for c, value in enumerate(transpose(b, rows)):
                b.store(data, (cb * b.lanes + c) * size + column, value)

        whole = x.channels // b.lanes if tail else -(-x.channels // b.lanes)
        with b.loop(whole) as cb:
            write(cb, b.lanes)
        if tail:
            write(whole, tail)

    def _list(self, data: Buffer, totals: Buffer, number: Index) -> None:
        """Add what some inputs contribute to one output."""
        b, weights, chains = self.b, self.weights, self.tile.chains
        vectors = range(self.tile.vectors)
        row = b.let(self._entry(weights.totals, number))
        sums = [[b.register() for _ in vectors] for _ in range(chains)]
        for chain in sums:
            for v, register in enumerate(chain):
                is_first = chain is sums[0]
                register.set(b.load(totals, row + v * b.lanes) if is_first else b.splat(0.0))
        start = b.let(self._entry(weights.ends, number))
        count = b.let((self._entry(weights.ends, number + 1) - start) // chains)
        with b.loop(count) as step:
            for u, chain in enumerate(sums):
                k = b.let(start + (step * chains + u))
                factor = b.let(b.broadcast(weights.values, k))
                at = b.let(self._entry(weights.places, k))
                for v, register in enumerate(chain):
                    register.set(register.get() + b.load(data, at + v * b.lanes) * factor)
        for v in vectors:
            total = sums[0][v].get()
            for chain in sums[1:]:
                total = total + chain[v].get()
            b.store(totals, row + v * b.lanes, total)

    def _transpose_out(
        self, totals: Buffer, part: Index, share: int, first: Index, column: Index
    ) -> None:
        """Apply the epilogue to a part of the channels of a vector of pixels, and store them."""
        b, y, size = self.b, self.y, self.tile.vectors * self.b.lanes
        vectors = -(-y.channels // b.lanes)
        tail = y.channels % b.lanes if y.layout.kind == "last" else 0
        with b.loop(share // b.lanes) as i:
            cb = b.let(part * (share // b.lanes) + i)
            whole = vectors - 1 if tail else vectors
            for count in (b.lanes, tail) if tail else (b.lanes,):
                is_tail = count == tail
                with b.when(tirx.And(cb >= whole, cb < vectors) if is_tail else cb < whole):
                    at = b.let(i * (b.lanes * size) + column)
                    rows = [b.let(b.load(totals, at + c * size)) for c in range(b.lanes)]
                    values = transpose(b, rows)
                    if not self.operands.epilogue.is_heavy:
                        for j, value in enumerate(values):
                            self._store(value, cb, first + j, count)
                        continue
                    # A long epilogue is looped over: in place, the stack would be too small.
                    for j, value in enumerate(values):
                        b.store(totals, at + j * size, value)
                    with b.loop(b.lanes) as j:
                        self._store(b.let(b.load(totals, at + j * size)), cb, first + j, count)

    def _store(self, value: Expr, cb: Index, at: Index, count: int) -> None:
        """Channels of a pixel."""
        b, y = self.b, self.y
        n, h, w = self._place(at)
        result = self.operands.apply(b, value, n, cb, h, w, count)
        b.store_partial(y.buffer, y.at(n, cb, h, w), b.let(result), count)
