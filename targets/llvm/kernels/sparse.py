"""Products and convolutions whose weights are mostly zero, by blocks of one input and a vector.

A block is the weights of one input (a channel under one tap) for as many outputs as a vector holds.
Blocks of zeros are not stored and not multiplied: for each vector of outputs there is a list of the
inputs that are left, as offsets from the pixel at hand, so that taps, strides and layouts cost
nothing. A register tile of pixels accumulates over the list:

    for input in list:                                # of this vector of outputs
        for pixel in tile:
            total[pixel] += x[pixel + input] * weight[input]

which is a load of weights, a load of an offset and a multiply-add with a broadcast from memory per
pixel: the loads, two a cycle, cost as much as the multiply-adds, so tiles are as large as registers
and the first cache allow. All vectors of outputs are computed before the next tile, while its
inputs are in that cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, Register
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.sparse_plan import SparseTile, Window
from relaxc.targets.llvm.kernels.view import View


@dataclass(frozen=True)
class Packed:
    """Blocks that are not zero.

    Attributes:
        values: float32 [blocks, lanes], those of one vector of outputs after the other.
        offsets: int32 [blocks], of the inputs that they multiply, ascending.
        ends: int32 [vectors + 1], where each vector's blocks begin, and the last ones end.
        parts: int32 [parts + 1], the first vector of each part, of about equal work.
    """

    values: np.ndarray
    offsets: np.ndarray
    ends: np.ndarray
    parts: np.ndarray


def kept_blocks(weight: np.ndarray, lanes: int) -> np.ndarray:
    """Which blocks of [out, ...] are not all zero: [vector of outputs, input]."""
    flat = weight.reshape(len(weight), -1)
    padded = np.pad(flat != 0, ((0, -len(flat) % lanes), (0, 0)))
    return np.asarray(padded.reshape(-1, lanes, flat.shape[1]).any(axis=1))


def pack(weight: np.ndarray, window: Window, x: View, tile: SparseTile, lanes: int) -> Packed:
    """Lay out [out, in, kh, kw] as the kernel reads it."""
    out, depth, kh, kw = weight.shape
    padded = np.pad(weight.reshape(out, -1), ((0, -out % lanes), (0, 0)))
    where = np.array(
        [window.offset(x, c, i, j) for c in range(depth) for i in range(kh) for j in range(kw)]
    )
    order = np.argsort(where, kind="stable")
    vectors = padded.reshape(-1, lanes, len(where)).transpose(0, 2, 1)[:, order]
    where = where[order]
    values, offsets, counts = [], [], []
    for blocks in vectors:
        kept = np.flatnonzero(blocks.any(axis=1))
        fill = -len(kept) % tile.chains
        values += [blocks[kept], np.zeros((fill, lanes), np.float32)]
        offsets += [where[kept], np.zeros(fill, where.dtype)]
        counts.append(len(kept) + fill)
    # Never empty: buffers without elements do not exist.
    values.append(np.zeros((1, lanes), np.float32))
    offsets.append(np.zeros(1, where.dtype))
    ends = np.concatenate([[0], np.cumsum(counts)])
    # Storing a tile takes as long as some blocks do.
    work = np.concatenate([[0], np.cumsum(np.array(counts) + 4)])
    shares = np.arange(1, tile.parts) * (work[-1] / tile.parts)
    middle = np.abs(work[:, None] - shares[None]).argmin(axis=0)
    parts = np.concatenate([[0], np.maximum.accumulate(middle), [len(vectors)]])
    return Packed(
        np.ascontiguousarray(np.concatenate(values), np.float32),
        np.concatenate(offsets).astype(np.int32),
        ends.astype(np.int32),
        parts.astype(np.int32),
    )


@dataclass(frozen=True)
class Weights:
    """Buffers of `Packed`."""

    values: Buffer
    offsets: Buffer
    ends: Buffer
    parts: Buffer


def emit(
    b: KernelBuilder,
    window: Window,
    tile: SparseTile,
    x: View,
    weights: Weights,
    y: View,
    operands: Operands,
) -> None:
    """Write the kernel."""
    _Writer(b, window, tile, x, weights, y, operands).write()


@dataclass(frozen=True)
class _Writer:
    b: KernelBuilder
    window: Window
    tile: SparseTile
    x: View
    weights: Weights
    y: View
    operands: Operands

    def write(self) -> None:
        """Tasks of a tile of pixels and a part of the outputs.

        The last tiles of an axis are moved back so that they end with the map: some pixels are
        computed twice, which is less than what half-filled tiles would lose.
        """
        b, window, tile = self.b, self.window, self.tile
        down = -(-window.height // tile.rows)
        across = (window.width + (tile.columns - 1)) // tile.columns
        if isinstance(window.width, int):
            with b.parallel(tile.parts * window.batch * down * across) as t:
                rest, column = b.let(t // across), b.let(t % across)
                rest, row = b.let(rest // down), b.let(rest % down)
                part, n = self._image(rest)
                h = b.let(tirx.min(row * tile.rows, window.height - tile.rows))
                w = b.let(tirx.min(column * tile.columns, window.width - tile.columns))
                self._part(part, n, h, w, tile.rows, tile.columns)
            return
        # Rows of a matrix: too few for a tile go one by one.
        with b.parallel(tile.parts * across) as t:
            part, column = b.let(t // across), b.let(t % across)
            first = b.let(column * tile.columns)
            with b.when(window.width >= tile.columns):
                w = b.let(tirx.min(first, window.width - tile.columns))
                self._part(part, 0, 0, w, 1, tile.columns)
            with b.when(window.width < tile.columns), b.loop(window.width) as w:
                self._part(part, 0, 0, w, 1, 1)

    def _image(self, t: Index) -> tuple[Index, Index]:
        """Which part of the outputs, and which image."""
        batch = self.window.batch
        if isinstance(batch, int) and batch == 1:
            return t, 0
        return self.b.let(t // batch), self.b.let(t % batch)

    def _part(self, part: Index, n: Index, h: Index, w: Index, rows: int, columns: int) -> None:
        b, (sh, sw), (top, left) = self.b, self.window.stride, self.window.start
        if any(self.y.layout.border):
            self._zero_borders(part, n, h, w, rows)
        base = b.let(self.x.at(n, 0, h * sh + top, w * sw + left))
        first = b.let(self._table(self.weights.parts, part))
        count = b.let(self._table(self.weights.parts, part + 1) - first)
        with b.loop(count) as i:
            self._vector(b.let(first + i), n, h, w, base, rows, columns)

    def _zero_borders(self, part: Index, n: Index, h: Index, w: Index, rows: int) -> None:
        """Of the rows of a tile, once: with the first tile of a row."""
        b = self.b
        first = self._table(self.weights.parts, part)
        count = self._table(self.weights.parts, part + 1) - first
        with b.when(w < 1), b.loop(b.let(count)) as i:
            cb = b.let(first + i)
            for r in range(rows):
                self.y.zero_row_border(b, n, cb, h + r)

    def _table(self, buffer: Buffer, at: Index) -> Expr:
        return tirx.Cast("int64", self.b.load(buffer, at, 1))

    def _vector(
        self, cb: Index, n: Index, h: Index, w: Index, base: Expr, rows: int, columns: int
    ) -> None:
        """One vector of outputs for a tile of pixels."""
        b, x, (sh, sw) = self.b, self.x, self.window.stride
        pixels = [
            (r * sh * x.row if r else 0) + c * sw * x.pixel
            for r in range(rows)
            for c in range(columns)
        ]
        chains = self.tile.chains
        totals = [[b.register() for _ in pixels] for _ in range(chains)]
        for chain in totals:
            for register in chain:
                register.set(b.splat(0.0))
        start = b.let(self._table(self.weights.ends, cb))
        count = b.let((self._table(self.weights.ends, cb + 1) - start) // chains)
        with b.loop(count) as step:
            for u, chain in enumerate(totals):
                k = b.let(start + (step * chains + u))
                at = b.let(base + self._table(self.weights.offsets, k))
                factor = b.let(b.load(self.weights.values, k * b.lanes))
                for register, pixel in zip(chain, pixels):
                    value = b.broadcast(x.buffer, at + pixel)
                    register.set(register.get() + value * factor)
        self._store(totals, cb, n, h, w, columns)

    def _store(
        self, totals: list[list[Register]], cb: Index, n: Index, h: Index, w: Index, columns: int
    ) -> None:
        b = self.b
        sums = []
        for registers in zip(*totals):
            value = registers[0].get()
            for other in registers[1:]:
                value = value + other.get()
            sums.append(value)
        # Rows of a matrix are not padded to whole vectors, blocks of channels are.
        tail = self.y.channels % b.lanes if self.y.layout.kind == "last" else 0
        last = self.y.channels // b.lanes
        for count in (b.lanes, tail) if tail else (b.lanes,):
            condition = None
            if tail:
                condition = cb < last if count == b.lanes else cb >= last
            with b.when(condition):
                for i, value in b.each_of(sums, rolled=self.operands.epilogue.is_heavy):
                    row, column = h + i // columns, w + i % columns
                    result = self.operands.apply(b, value, n, cb, row, column, count)
                    at = self.y.at(n, cb, row, column)
                    b.store_partial(self.y.buffer, at, b.let(result), count)
