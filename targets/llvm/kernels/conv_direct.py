"""Direct convolution on a register tile: several output columns by several channel blocks.

For each tile the accumulators stay in registers over the whole reduction (input channels and
taps); weights are packed [block of outputs][taps and inputs][lanes], so that the innermost body is
one weight load per channel block and one broadcast per column. Works on blocked, channels-last and
plain data (the first layer) alike, because a `View` hides the strides.

Reaches 92 to 100 % of the multiply-add peak (Georganas et al., Anatomy of High-Performance Deep
Learning Convolutions on SIMD Architectures, SC 2018, is the same formulation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels import intrinsics
from relaxc.targets.llvm.kernels.arithmetic import Arithmetic
from relaxc.targets.llvm.kernels.builder import (
    Expr,
    Index,
    KernelBuilder,
    Register,
    even_tiles,
    index,
)
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.direct_tile import Tile, channel_groups
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View

# A 7x7 kernel's at a distance of three.
_MOST_EDGE_TAPS = 7 * (3 + 3)
# Rows of tiles that are too few for several cores, tasks that are enough then, and the work from
# which waking another thread pays.
_FEW_ROWS, _ENOUGH, _LEAST_MACS = 4, 8, 1 << 20


def can_skip_edges(spec: ConvSpec) -> bool:
    """Whether data need no border: tiles at the edges are written out, tap by tap."""
    return spec.kernel[1] * (spec.padding[1] + spec.padding[3]) <= _MOST_EDGE_TAPS


def cuts(spec: ConvSpec, tile: Tile, groups: int) -> int:
    """Into how many parts rows are cut: one, where `groups` of blocks are enough for all cores."""
    rows = groups * spec.out_height * (spec.batch if isinstance(spec.batch, int) else 1)
    if rows >= _FEW_ROWS or spec.macs < _LEAST_MACS:
        return 1
    return max(1, min(_ENOUGH // rows, spec.out_width // tile.columns))


def pack_weights(
    weight: np.ndarray, lanes: int, arithmetic: Arithmetic, pairs: bool = False
) -> np.ndarray:
    """[out, in, kh, kw] -> [out block][in block][kh][kw][in group][out lane], flat per block.

    The last block of inputs is as narrow as it is; outputs are padded with zeros, or the last half
    block with itself, if a register holds `pairs` of columns.
    """
    out, depth, kh, kw = weight.shape
    if pairs:
        last = weight[out // lanes * lanes :]
        last = np.pad(last, ((0, lanes // 2 - len(last)), (0, 0), (0, 0), (0, 0)))
        weight = np.concatenate([weight[: out // lanes * lanes], last, last])
        out = len(weight)
    weight = np.pad(weight, ((0, -out % lanes), (0, 0), (0, 0), (0, 0)))
    weight = weight.reshape(-1, lanes, depth, kh, kw).transpose(0, 2, 3, 4, 1)
    parts = [
        arithmetic.pack(weight[:, i : i + lanes].transpose(0, 2, 3, 1, 4)).reshape(len(weight), -1)
        for i in range(0, depth, lanes)
    ]
    return np.ascontiguousarray(np.concatenate(parts, 1))


# Which part of a row, and into how many it is cut.
Part = tuple[Expr, int]


@dataclass(frozen=True)
class Placement:
    """Which pixels of the result a convolution computes: every `step`-th, from `start` on."""

    start: tuple[int, int] = (0, 0)
    step: tuple[int, int] = (1, 1)

    def row(self, h: Index) -> Index:
        """The result's row of the convolution's row `h`."""
        return h * self.step[0] + self.start[0]

    def column(self, w: Index) -> Index:
        """The result's column of the convolution's column `w`."""
        return w * self.step[1] + self.start[1]


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    tile: Tile,
    x: View,
    weight: View,
    y: View,
    operands: Operands,
    arithmetic: Arithmetic,
    placement: Placement = Placement(),  # noqa: B008 (frozen)
    has_border: bool = True,
) -> None:
    """Write the kernel. `weight.row` is the length of one block's packed weights.

    Without a border around the data, taps that lie outside of the map are left out.
    """
    data = arithmetic.view(b, x)
    Writer(b, spec, tile, data, weight, y, operands, arithmetic, placement, has_border).write()


@dataclass(frozen=True)
class Writer:
    """Writes the loops of one kernel; fields are the arguments of `emit`."""

    b: KernelBuilder
    spec: ConvSpec
    tile: Tile
    x: View
    weight: View
    y: View
    operands: Operands
    arithmetic: Arithmetic
    placement: Placement
    has_border: bool

    def write(self) -> None:
        """Share out rows of tiles; a last, narrower group of channel blocks comes separately."""
        b, spec, tile = self.b, self.spec, self.tile
        full, rest = channel_groups(spec, tile, b.lanes)
        if full:
            count = cuts(spec, tile, full)
            with b.parallel(spec.batch * full * spec.out_height * count) as t:
                t, part = self._part(t, count)
                n, t = self._image(t, full * spec.out_height)
                if tile.rows_outer:
                    h, group = b.let(t // full), b.let(t % full)
                elif tile.parts > 1:
                    rows = spec.out_height // tile.parts
                    line = b.let(t // rows)
                    group = b.let(line % full)
                    h = b.let(line // full * rows + t % rows)
                else:
                    group, h = b.let(t // spec.out_height), b.let(t % spec.out_height)
                self.row(n, b.let(group * tile.blocks), tile.blocks, h, part=part)
        if rest:
            count = cuts(spec, tile, 1)
            with b.parallel(spec.batch * spec.out_height * count) as t:
                t, part = self._part(t, count)
                n, h = self._image(t, spec.out_height)
                self.row(n, index(full * tile.blocks), rest, h, tile.pairs, part)

    def _part(self, t: Index, cuts: int) -> tuple[Index, Part | None]:
        """The row of a task, and which part of it is meant."""
        return (t, None) if cuts == 1 else (self.b.let(t // cuts), (self.b.let(t % cuts), cuts))

    def _image(self, t: Index, size: int) -> tuple[Index, Index]:
        if isinstance(self.spec.batch, int) and self.spec.batch == 1:
            return 0, t
        return self.b.let(t // size), self.b.let(t % size)

    def row(
        self,
        n: Index,
        first: Index,
        count: int,
        h: Index,
        pairs: bool = False,
        part: Part | None = None,
    ) -> None:
        """A row of `count` channel blocks from `first` on, or a part of it."""
        b = self.b
        is_first, is_last = (None, None) if part is None else (part[0] < 1, part[0] >= part[1] - 1)
        with b.when(is_first):
            for i in range(count):
                self.y.zero_row_border(b, n, first + i, self.placement.row(h))
        for start, size, tiles in even_tiles(self.spec.out_width, self.tile.columns):
            ends = [start + t * size for t in range(tiles) if self._crosses(start + t * size, size)]
            left = [w for w in ends if w - start == ends.index(w) * size]
            with b.when(is_first if left else None):
                for w in left:
                    self._tile(n, first, count, h, index(w), size, pairs, outside=w)
            low: Index = 0
            number: Index = tiles - len(ends)
            if part is not None:
                low = b.let(part[0] * number // part[1])
                number = b.let((part[0] + 1) * (tiles - len(ends)) // part[1] - low)
            with b.loop(number) as t:
                w = (t + low) * size + start + len(left) * size
                self._tile(n, first, count, h, w, size, pairs)
            with b.when(is_last if ends[len(left) :] else None):
                for w in ends[len(left) :]:
                    self._tile(n, first, count, h, index(w), size, pairs, outside=w)

    def _crosses(self, w: int, columns: int) -> bool:
        """Whether taps of a tile lie beside the map, where no border is."""
        taps = range(self.spec.kernel[1])
        return not all(self._is_inside(w + c, j) for c in (0, columns - 1) for j in taps)

    def _is_inside(self, w: int, tap: int) -> bool:
        """Whether a tap of a column of outputs reads memory that is there."""
        spec = self.spec
        column = w * spec.stride[1] + tap * spec.dilation[1] - spec.padding[1]
        return self.has_border or 0 <= column < spec.in_width

    def _row_exists(self, row: Index) -> Expr | None:
        """Whether a row of inputs does; None: all do."""
        spec = self.spec
        reach = (spec.out_height - 1) * spec.stride[0] + (spec.kernel[0] - 1) * spec.dilation[0]
        found = [row >= 0] if spec.padding[0] else []
        found += [row < spec.in_height] if reach - spec.padding[0] >= spec.in_height else []
        if self.has_border or not found:
            return None
        return found[0] if len(found) == 1 else tirx.And(*found)

    def _tile(
        self,
        n: Index,
        first: Index,
        count: int,
        h: Index,
        w: Index,
        columns: int,
        pairs: bool,
        outside: int | None = None,
    ) -> None:
        """`count` channel blocks from `first` on, by `columns` pixels of row `h` from `w` on.

        Some of whose taps may lie `outside` of the map; then it is the number `w`.
        """
        b, lanes = self.b, self.b.lanes
        acc = self.arithmetic.accumulators(b, columns, first, count - pairs)
        if pairs:
            acc += self.arithmetic.accumulators(b, -(-columns // 2), first + count - 1, 1)
        depth = self.spec.in_channels // self.spec.groups
        if depth // lanes:
            with b.loop(depth // lanes) as block:
                self._fetch_ahead(first, count, h, block)
                self._steps(acc, n, first, h, w, block, lanes, outside)
        if depth % lanes:
            self._steps(acc, n, first, h, w, index(depth // lanes), depth % lanes, outside)
        for k in range(count):
            if pairs and k == count - 1:
                values = [self._half(acc[k][c // 2].get(), c % 2) for c in range(columns)]
            else:
                values = [self.arithmetic.result(b, r.get(), first + k) for r in acc[k]]
            for c, value in b.each_of(values, rolled=self.operands.epilogue.is_heavy):
                row, column = self.placement.row(h), self.placement.column(w + c)
                result = self.operands.apply(b, value, n, first + k, row, column)
                b.store(self.y.buffer, self.y.at(n, first + k, row, column), result)

    def _half(self, value: Expr, upper: int) -> Expr:
        """One half of a vector, followed by zeros."""
        lanes, half = self.b.lanes, self.b.lanes // 2
        picks = [*range(upper * half, upper * half + half), *range(lanes, lanes + half)]
        zeros = self.b.splat(0.0)
        return self.b.let(tirx.Shuffle([value, zeros], [tirx.IntImm("int32", i) for i in picks]))

    def _fetch_ahead(self, first: Index, count: int, h: Index, block: Index) -> None:
        """Fetch a share of the next group's weights, where rows of a map follow each other.

        Evenly over the rows, as memory sends them: all are there when the next group begins.
        """
        b, spec, panel = self.b, self.spec, self.weight.row
        if self.tile.rows_outer or spec.out_height < 2:
            return
        rows = spec.out_height // self.tile.parts
        blocks = spec.in_channels // spec.groups // b.lanes
        lines = -(-count * panel // (rows * blocks * b.lanes))
        part = b.let(h % rows * blocks + block)
        at = b.let((first + count) * panel + part * (lines * b.lanes) + self.weight.origin)
        for line in range(lines):
            b.prefetch(self.weight.buffer, at + line * b.lanes)

    def _steps(
        self,
        acc: list[list[Register]],
        n: Index,
        first: Index,
        h: Index,
        w: Index,
        block: Index,
        width: int,
        outside: int | None,
    ) -> None:
        """Accumulate over all taps and the `width` channels of an input block, by groups."""
        b, spec = self.b, self.spec
        (kh, kw), columns = spec.kernel, len(acc[0])
        width = -(-width // self.arithmetic.group)
        unroll = 1 if width % self.tile.unroll else self.tile.unroll
        with b.loop(kh) as i:
            row = h * spec.stride[0] + i * spec.dilation[0] - spec.padding[0]
            with b.when(self._row_exists(row)):
                if outside is None:
                    with b.loop(kw) as j, b.loop(width // unroll) as step:
                        for u in range(unroll):
                            lane = step * unroll + u
                            self._step(acc, n, first, row, w, block, width, i, j, lane)
                    return
                for tap in range(kw):
                    inside = [self._is_inside(outside + c, tap) for c in range(columns)]
                    if any(inside):
                        with b.loop(width) as lane:
                            self._step(
                                acc, n, first, row, w, block, width, i, index(tap), lane, inside
                            )

    def _step(
        self,
        acc: list[list[Register]],
        n: Index,
        first: Index,
        row: Index,
        w: Index,
        block: Index,
        width: int,
        i: Index,
        j: Index,
        lane: Index,
        inside: list[bool] | None = None,
    ) -> None:
        """Multiply one group of inputs, of one tap, for the columns that lie inside of the map."""
        b, spec, x, weight = self.b, self.spec, self.x, self.weight
        lanes, panel, columns = b.lanes, weight.row, len(acc[0])
        (kh, kw), stride = spec.kernel, spec.stride[1]
        depth, blocks = spec.in_channels // spec.groups, -(-spec.out_channels // lanes)
        group = 0 if spec.groups == 1 else first // (blocks // spec.groups) * (depth // lanes)
        column = w * stride + j * spec.dilation[1] - spec.padding[1]
        at = b.let(x.lane(n, group + block, lane, lanes, row, column))
        inputs = lanes // self.arithmetic.group
        tap = block * (inputs * kh * kw * lanes) + ((i * kw + j) * width + lane) * lanes
        wat = b.let(first * panel + tap + weight.origin)
        for k in range(len(acc) if self.tile.prefetch else 0):
            b.prefetch(weight.buffer, wat + k * panel + self.tile.prefetch)
        loaded = [b.let(b.load(weight.buffer, wat + k * panel)) for k in range(len(acc))]
        values: list[Expr] = []
        for c in range(columns):
            is_inside = inside is None or inside[c]
            there = b.broadcast(x.buffer, at + c * stride * x.pixel) if is_inside else b.splat(0.0)
            values.append(b.let(there))
            for registers, factor in zip(acc, loaded):
                if len(registers) == columns:
                    if is_inside:
                        self._add(registers[c], values[c], factor)
                elif c % 2 or c == columns - 1:
                    pair = self._pair(values[c - 1], values[c]) if c % 2 else values[c]
                    self._add(registers[c // 2], pair, factor)

    def _pair(self, low: Expr, high: Expr) -> Expr:
        dtype = self.x.buffer.dtype
        self.b.define(intrinsics.joining(dtype))
        return self.b.let(intrinsics.join_halves(low, high, dtype))

    def _add(self, total: Register, value: Expr, factor: Expr) -> None:
        total.set(self.arithmetic.multiply_add(self.b, total.get(), value, factor))
