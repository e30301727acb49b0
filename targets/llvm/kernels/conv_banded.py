"""Grouped convolution whose groups don't fill whole vectors, as a banded matrix of weights.

A tile of output channels, whole vectors wide, reads the window of input channels that its groups
span; weights are zero where an input belongs to another group than the output. How much is
multiplied by zero depends on the shape: nothing where a tile lies in one group, at most the one
group next to it where groups are wide. Windows differ in place and length, so they come from a
table that the kernel reads once per tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, even_tiles
from relaxc.targets.llvm.kernels.conv_direct import Placement
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View


@dataclass(frozen=True)
class Band:
    """The window of inputs of one tile.

    Attributes:
        first: first input channel.
        count: input channels.
        blocks: output blocks of the tile.
    """

    first: int
    count: int
    blocks: int


@dataclass(frozen=True)
class BandedTile:
    """A register tile.

    Attributes:
        blocks: output blocks, one vector wide each; the last tile may have fewer.
        columns: the most output columns.
    """

    blocks: int
    columns: int


def bands(spec: ConvSpec, lanes: int, blocks: int) -> list[Band]:
    """One window per tile of `blocks` output blocks."""
    depth, width = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    result = []
    for start in range(0, spec.out_channels, blocks * lanes):
        stop = min(start + blocks * lanes, spec.out_channels)
        first, last = start // width, (stop - 1) // width
        result.append(Band(first * depth, (last + 1 - first) * depth, -(-(stop - start) // lanes)))
    return result


def choose_tile(spec: ConvSpec, lanes: int, registers: int) -> BandedTile:
    """The tile with the least estimated cycles; see `direct_tile.choose_tile`."""
    best: tuple[float, BandedTile] | None = None
    for blocks in (1, 2, 3):
        largest = min((registers - 1 - blocks) // blocks, 28 if blocks == 1 else 14)
        columns = -(-spec.out_width // -(-spec.out_width // largest))
        tiles = -(-spec.out_width // columns)
        cycles = 0.0
        for band in bands(spec, lanes, blocks):
            k = band.blocks
            step = max(columns * k / 2, 4, (columns + k) / 2, (columns * (k + 1) + k + 6) / 6.5)
            cycles += tiles * step * band.count
        if best is None or cycles < best[0]:
            best = (cycles, BandedTile(blocks, largest))
    assert best is not None
    return best[1]


def pack_weights(
    weight: np.ndarray, spec: ConvSpec, tile: BandedTile, lanes: int
) -> tuple[np.ndarray, np.ndarray]:
    """[out, in / groups, kh, kw] -> per tile [kh][kw][input of the window][block][lane]; the table.

    Returns:
        The weights, flat, and an int32 table [tile][first input, inputs, offset of the weights].
    """
    out, depth, kh, kw = weight.shape
    width = out // spec.groups
    parts, table, offset = [], [], 0
    for t, band in enumerate(bands(spec, lanes, tile.blocks)):
        start = t * tile.blocks * lanes
        part = np.zeros((kh, kw, band.count, band.blocks * lanes), np.float32)
        for o in range(start, min(start + band.blocks * lanes, out)):
            first = o // width * depth - band.first
            part[:, :, first : first + depth, o - start] = weight[o].transpose(1, 2, 0)
        parts.append(part.reshape(-1))
        table.append((band.first, band.count, offset))
        offset += part.size
    return np.concatenate(parts), np.array(table, np.int32)


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    tile: BandedTile,
    x: View,
    weight: Buffer,
    table: Buffer,
    y: View,
    operands: Operands,
    placement: Placement = Placement(),  # noqa: B008 (frozen)
) -> None:
    """Write the kernel; `weight` and `table` as `pack_weights` returns them."""
    writer = _Writer(b, spec, tile, x, weight, table, y, operands, placement)
    full, rest = divmod(-(-spec.out_channels // b.lanes), tile.blocks)
    if full:
        writer.write(0, full, tile.blocks)
    if rest:
        writer.write(full, 1, rest)


@dataclass(frozen=True)
class _Writer:
    b: KernelBuilder
    spec: ConvSpec
    tile: BandedTile
    x: View
    weight: Buffer
    table: Buffer
    y: View
    operands: Operands
    placement: Placement

    def write(self, first: int, tiles: int, blocks: int) -> None:
        """Compute `tiles` tiles of `blocks` output blocks, from the tile `first` on."""
        b, rows = self.b, self.spec.out_height
        with b.parallel(self.spec.batch * tiles * rows) as t:
            h, t = b.let(t % rows), b.let(t // rows)
            n, group = b.let(t // tiles), b.let(t % tiles + first)
            start, count, offset = (self._entry(group, i) for i in range(3))
            cb = b.let(group * self.tile.blocks)
            for i in range(blocks):
                self.y.zero_row_border(b, n, cb + i, self.placement.row(h))
            for left, columns, repeats in even_tiles(self.spec.out_width, self.tile.columns):
                with b.loop(repeats) as r:
                    w = b.let(r * columns + left)
                    self._tile(n, cb, blocks, h, w, columns, (start, count, offset))

    def _entry(self, group: Index, field: int) -> Expr:
        return self.b.let(tirx.Cast("int64", self.b.load(self.table, group * 3 + field, 1)))

    def _tile(
        self,
        n: Index,
        cb: Index,
        blocks: int,
        h: Index,
        w: Index,
        columns: int,
        band: tuple[Expr, Expr, Expr],
    ) -> None:
        b, spec, x, lanes = self.b, self.spec, self.x, self.b.lanes
        (kh, kw), (sh, sw), (dh, dw) = spec.kernel, spec.stride, spec.dilation
        first, count, offset = band
        acc = [[b.register() for _ in range(columns)] for _ in range(blocks)]
        for registers in acc:
            for register in registers:
                register.set(b.splat(0.0))
        with b.loop(kh) as i, b.loop(kw) as j:
            row, column = h * sh + i * dh - spec.padding[0], w * sw + j * dw - spec.padding[1]
            pixel = b.let(x.at(n, 0, row, column))
            panel = b.let(offset + (i * kw + j) * count * (blocks * lanes))
            with b.loop(count) as c:
                at = b.let(pixel + self._channel(first + c))
                wat = b.let(panel + c * (blocks * lanes))
                loaded = [b.let(b.load(self.weight, wat + k * lanes)) for k in range(blocks)]
                for p in range(columns):
                    value = b.let(b.broadcast(x.buffer, at + p * sw * x.pixel))
                    for registers, factor in zip(acc, loaded):
                        registers[p].set(registers[p].get() + value * factor)
        for k in range(blocks):
            values = [register.get() for register in acc[k]]
            for p, value in b.each_of(values, rolled=self.operands.epilogue.is_heavy):
                row, column = self.placement.row(h), self.placement.column(w + p)
                result = self.operands.apply(b, value, n, cb + k, row, column)
                b.store(self.y.buffer, self.y.at(n, cb + k, row, column), result)

    def _channel(self, channel: Expr) -> Expr:
        """Where a channel lies, relative to the first channel of a pixel."""
        block = self.x.block
        if block == 1:
            return channel * self.x.plane
        return channel // block * self.x.plane + channel % block
