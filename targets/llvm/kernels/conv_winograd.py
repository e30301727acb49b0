"""Winograd and Cook-Toom convolution: fewer multiplications for kernels of stride 1 and 2.

An output tile of m x m pixels costs (m + r - 1)^2 multiplications per channel pair instead of
m^2 r^2: 4x fewer for F(4,3), 2.25x for F(2,3); at stride 2 it is 1.8x for m = 4, 1.4x for m = 2.
Per block of tiles: transform the data, then per group of output channels multiply all transformed
positions (one GEMM each) and at once transform back and apply the epilogue, so that nothing but
the block's data leaves the L2 cache.

Weights are transformed in every run: transformed they would be up to nine times larger, in the
file and on their way from memory to the core, which limits the speed on maps of few tiles.

Reference: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relaxc.targets.llvm.kernels.builder import (
    Buffer,
    Expr,
    Index,
    KernelBuilder,
    even_tiles,
    index,
)
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.cook_toom import linear
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.kernels.winograd_plan import Plan

# Elements ahead in a panel of transformed weights, which may lie in L3.
_PREFETCH = 4096
_LINE = 16  # elements in a cache line


def pack_weights(weight: np.ndarray, plan: Plan, lanes: int) -> np.ndarray:
    """[out, in, kh, kw] -> [out group][in][kh * kw][group * lanes], not transformed."""
    out, depth = weight.shape[:2]
    width = plan.group * lanes
    panels = weight.reshape(out // width, width, depth, plan.taps).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(panels, np.float32)


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    plan: Plan,
    x: View,
    weight: Buffer,
    y: View,
    operands: Operands,
) -> None:
    """Write the kernel. `weight` is what `pack_weights` returns."""
    writer = _Writer(b, spec, plan, x, weight, y, operands)
    with b.parallel(spec.batch * y.blocks) as t:
        y.zero_borders(b, b.let(t // y.blocks), b.let(t % y.blocks))
    if plan.by_group:
        writer.share_groups()
    else:
        writer.share_blocks()


class _Writer:
    """The phases of the algorithm, as code for one block of tiles."""

    def __init__(
        self,
        b: KernelBuilder,
        spec: ConvSpec,
        plan: Plan,
        x: View,
        weight: Buffer,
        y: View,
        operands: Operands,
    ) -> None:
        self.b, self.spec, self.plan = b, spec, plan
        self.x, self.weight, self.y, self.operands = x, weight, y, operands
        self.groups = y.blocks // plan.group
        self.down, self.across = plan.tiles(spec)
        # Tiles that are numbered together: of all images, or of one.
        self.total = self.down * self.across * (spec.batch if plan.by_group else 1)
        self.blocks = -(-self.total // plan.block)
        self.in_parts = plan.depth < x.blocks
        # One line of padding: positions at power-of-two strides would share cache sets.
        self.data_stride = (x.blocks * plan.block + 1) * b.lanes
        self.product_stride = (plan.group * plan.block + 1) * b.lanes
        self.panel_stride = (plan.depth * plan.group * b.lanes + 1) * b.lanes
        # Weights of one group's outputs and one input.
        self.row = plan.taps * plan.group * b.lanes

    def share_blocks(self) -> None:
        """All weights first; then each thread takes blocks of tiles through all groups."""
        b, plan, x = self.b, self.plan, self.x
        size, total = plan.positions * self.panel_stride, self.spec.batch * self.blocks
        if plan.parts:
            self._share_blocks_only(size, total)
            return
        panels = b.workspace(self.groups * size)
        with b.parallel(self.groups * x.blocks) as t:
            g, cb = b.let(t // x.blocks), b.let(t % x.blocks)
            self.transform_weights(panels, b.let(g * size), g, index(0), cb)
        with b.parallel(total) as t:
            self._block(panels, size, t)

    def _share_blocks_only(self, size: int, total: int) -> None:
        """Each part transforms all weights for itself, a group's when its only block needs them."""
        b, parts = self.b, self.plan.parts
        if total <= parts:
            with b.parallel(total) as t:
                self._block(b.workspace(size), 0, t)
            return
        with b.parallel(parts) as part:
            panels = b.workspace(self.groups * size)
            with b.loop(self.groups) as g:
                self._transform_group(panels, b.let(g * size), g)
            low = b.let(part * total // parts)
            with b.loop(b.let((part + 1) * total // parts - low)) as i:
                self._block(panels, size, low + i)

    def _transform_group(self, panels: Buffer, at: Index, g: Index) -> None:
        with self.b.loop(self.x.blocks) as cb:
            self.transform_weights(panels, at, g, index(0), cb)

    def _block(self, panels: Buffer, size: int, t: Index) -> None:
        """A block of tiles; weights lie `size` apart, or are transformed now where that is 0."""
        b, plan = self.b, self.plan
        n, block = b.let(t // self.blocks), b.let(t % self.blocks)
        data = b.workspace(plan.positions * self.data_stride)
        product = b.workspace(plan.positions * self.product_stride)
        with b.loop(self.x.blocks) as cb:
            self.transform_data(data, index(0), n, block, cb)
        with b.loop(self.groups) as g:
            at = b.let(g * size)
            if not size:
                self._transform_group(panels, at, g)
            self.multiply(data, index(0), panels, at, product)
            self.finish(product, n, block, g)

    def share_groups(self) -> None:
        """Each thread takes groups of outputs over all blocks, once their data is transformed.

        A single block's data each part transforms for itself, rather than to fetch half of them.
        """
        b, plan, x = self.b, self.plan, self.x
        size = plan.positions * self.data_stride
        if self.blocks == 1 and plan.parts:
            with b.parallel(plan.parts) as part:
                data = b.workspace(size)
                with b.loop(x.blocks) as cb:
                    self.transform_data(data, index(0), index(0), index(0), cb)
                low = b.let(part * self.groups // plan.parts)
                with b.loop(b.let((part + 1) * self.groups // plan.parts - low)) as i:
                    self._group(data, b.let(low + i))
            return
        data = b.workspace(self.blocks * size)
        with b.parallel(self.blocks * x.blocks) as t:
            block, cb = b.let(t // x.blocks), b.let(t % x.blocks)
            self.transform_data(data, b.let(block * size), index(0), block, cb)
        with b.parallel(self.groups) as g:
            self._group(data, g)

    def _group(self, data: Buffer, g: Index) -> None:
        """One group of outputs over all blocks of transformed data."""
        b, plan = self.b, self.plan
        size = plan.positions * self.data_stride
        product = b.workspace(plan.positions * self.product_stride)
        panels = b.workspace(plan.positions * self.panel_stride)
        if self.in_parts:
            with b.loop(plan.positions * self.product_stride // b.lanes) as i:
                b.store(product, i * b.lanes, b.splat(0.0))
            self._add_parts(data, panels, product, g)
            self.finish(product, index(0), index(0), g)
            return
        self._transform_group(panels, index(0), g)
        with b.loop(self.blocks) as block:
            self.multiply(data, b.let(block * size), panels, index(0), product)
            self.finish(product, index(0), block, g)

    def _add_parts(self, data: Buffer, panels: Buffer, product: Buffer, g: Index) -> None:
        """Some inputs at a time, while the next ones' weights are on their way from memory."""
        b, lanes = self.b, self.b.lanes
        for start, size, count in even_tiles(self.x.blocks, self.plan.depth):
            with b.loop(count) as part:
                first = b.let(part * size + start)
                with b.loop(size) as cb:
                    self.transform_weights(panels, index(0), g, first, cb)
                ahead = (g * self.spec.in_channels + (first + size) * lanes) * self.row
                at = b.let(first * (self.plan.block * lanes))
                self.multiply(data, at, panels, index(0), product, size, b.let(ahead))

    def transform_data(self, data: Buffer, first: Index, n: Index, block: Index, cb: Index) -> None:
        """Transform one channel block of a block of tiles, to `first` on."""
        b, plan, x = self.b, self.plan, self.x
        bt_rows, bt_columns = plan.rows.matrices()[0], plan.columns.matrices()[0]
        with b.loop(plan.block) as t, _Existing(self, n, block, t) as (n, ty, tx):
            top, left = self.spec.padding[:2]
            down = plan.rows.outputs * plan.rows.stride
            across = plan.columns.outputs * plan.columns.stride
            base = b.let(x.at(n, cb, ty * down - top, tx * across - left))
            columns = [
                linear(
                    b,
                    bt_rows,
                    [
                        b.let(b.load(x.buffer, base + r * x.row + c * x.pixel))
                        for r in plan.rows.order
                    ],
                )
                for c in plan.columns.order
            ]
            at = b.let(first + (cb * plan.block + t) * b.lanes)
            for r in range(plan.rows.size):
                line = linear(b, bt_columns, [column[r] for column in columns])
                for c, value in enumerate(line):
                    b.store(data, at + (r * plan.columns.size + c) * self.data_stride, value)

    def transform_weights(
        self, panels: Buffer, at: Index, group: Index, first: Index, cb: Index
    ) -> None:
        """Transform the weights of one group's outputs and one block's inputs.

        They go to the `cb`-th part of the panels at `at`, and belong to block `first + cb`.
        """
        b, plan, lanes = self.b, self.plan, self.b.lanes
        g_rows, g_columns = plan.rows.matrices()[1], plan.columns.matrices()[1]
        kh, kw = plan.rows.taps, plan.columns.taps
        width = plan.group * lanes
        with b.loop(lanes) as lane, b.loop(plan.group) as k:
            i = b.let(cb * lanes + lane)
            row = group * self.spec.in_channels + first * lanes + i
            base = b.let(row * self.row + k * lanes)
            columns = [
                linear(
                    b,
                    g_rows,
                    [b.let(b.load(self.weight, base + (r * kw + c) * width)) for r in range(kh)],
                )
                for c in range(kw)
            ]
            to = b.let(at + i * width + k * lanes)
            for r in range(plan.rows.size):
                line = linear(b, g_columns, [column[r] for column in columns])
                for c, value in enumerate(line):
                    b.store(panels, to + (r * plan.columns.size + c) * self.panel_stride, value)

    def multiply(
        self,
        data: Buffer,
        tiles: Index,
        panels: Buffer,
        panel: Index,
        product: Buffer,
        depth: int | None = None,
        ahead: Index | None = None,
    ) -> None:
        """Multiply a block of tiles, at `tiles`, with a group's weights, at `panel`.

        All inputs, or the `depth` next blocks of them, whose product is added to what is there;
        meanwhile weights from `ahead` on are fetched.
        """
        b, plan = self.b, self.plan
        gemm = _Gemm(self, data, panels, product, depth or self.x.blocks, ahead)
        with b.loop(plan.positions) as position:
            at = b.let(panel + position * self.panel_stride)
            row = b.let(tiles + position * self.data_stride)
            for i, (start, size, count) in enumerate(even_tiles(plan.block, plan.tile)):
                with b.loop(count) as t:
                    gemm.write(position, at, row, t * size + start, size, fetches=i == 0)

    def finish(self, product: Buffer, n: Index, block: Index, group: Index) -> None:
        """Transform a group's products back and write the results."""
        with self.b.loop(self.plan.group) as k:
            self._transform_back(product, n, block, group, k)

    def _transform_back(
        self, product: Buffer, n: Index, block: Index, group: Index, k: Index
    ) -> None:
        b, plan, spec = self.b, self.plan, self.spec
        at_rows, at_columns = plan.rows.matrices()[2], plan.columns.matrices()[2]
        with b.loop(plan.block) as t, _Existing(self, n, block, t) as (n, ty, tx):
            at = b.let((k * plan.block + t) * b.lanes)
            columns = [
                linear(
                    b,
                    at_rows,
                    [
                        b.let(
                            b.load(product, at + (r * plan.columns.size + c) * self.product_stride)
                        )
                        for r in range(plan.rows.size)
                    ],
                )
                for c in range(plan.columns.size)
            ]
            cb = b.let(group * plan.group + k)
            h, w = b.let(ty * plan.rows.outputs), b.let(tx * plan.columns.outputs)
            rows = [
                linear(b, at_columns, [column[r] for column in columns])
                for r in range(plan.rows.outputs)
            ]
            for r, line in enumerate(rows):
                # The last tiles may reach over the edge of the map.
                with b.when(_inside(h, r, spec.out_height, plan.rows.outputs)):
                    self._store_row(line, n, cb, h + r, w)

    def _store_row(self, line: list[Expr], n: Index, cb: Index, h: Index, w: Index) -> None:
        b, y, step = self.b, self.y, self.plan.columns.outputs
        extent = self.spec.out_width
        if self.operands.epilogue.is_heavy:
            for c, value in b.each_of(line, rolled=True):
                with b.when(w + c < extent if extent % step else None):
                    result = self.operands.apply(b, value, n, cb, h, w + c)
                    b.store(y.buffer, y.at(n, cb, h, w + c), result)
            return
        for c, value in enumerate(line):
            with b.when(_inside(w, c, extent, step)):
                result = self.operands.apply(b, value, n, cb, h, w + c)
                b.store(y.buffer, y.at(n, cb, h, w + c), result)


@dataclass(frozen=True)
class _Gemm:
    """Products of transformed tiles and weights, one register tile at a time."""

    writer: _Writer
    data: Buffer
    panels: Buffer
    product: Buffer
    depth: int
    ahead: Index | None

    def write(
        self, position: Index, panel: Index, row: Index, first: Index, size: int, fetches: bool
    ) -> None:
        """Tiles `first` to `first + size` of a position's row, by its panel."""
        w, b, plan, lanes = self.writer, self.writer.b, self.writer.plan, self.writer.b.lanes
        width = plan.group * lanes
        acc = [[b.register() for _ in range(size)] for _ in range(plan.group)]
        to = b.let(position * w.product_stride + first * lanes)
        for k, registers in enumerate(acc):
            for t, register in enumerate(registers):
                old = b.load(self.product, to + (k * plan.block + t) * lanes)
                register.set(old if w.in_parts else b.splat(0.0))
        tiles = b.let(row + first * lanes)
        with b.loop(self.depth) as block, b.loop(lanes) as lane:
            i = b.let(block * lanes + lane)
            at = b.let(panel + i * width)
            if fetches and self.ahead is not None:
                self._fetch(position, i)
            elif fetches:
                for k in range(plan.group):
                    b.prefetch(self.panels, at + k * lanes + _PREFETCH)
            weights = [b.let(b.load(self.panels, at + k * lanes)) for k in range(plan.group)]
            values = b.let(tiles + block * (plan.block * lanes) + lane)
            for t in range(size):
                value = b.let(b.broadcast(self.data, values + t * lanes))
                for k in range(plan.group):
                    acc[k][t].set(acc[k][t].get() + value * weights[k])
        for k, registers in enumerate(acc):
            for t, register in enumerate(registers):
                b.store(self.product, to + (k * plan.block + t) * lanes, register.get())

    def _fetch(self, position: Index, i: Index) -> None:
        """Ask for an equal share of the next weights in each step of each position."""
        w, b = self.writer, self.writer.b
        step = -(-w.row // w.plan.positions)
        at = b.let(self.ahead + (position * (self.depth * b.lanes) + i) * step)
        for line in range(0, step, _LINE):
            b.prefetch(w.weight, at + line)


class _Existing:
    """Context: tile `t` of a block, if there is one; yields its image, row and column."""

    def __init__(self, writer: _Writer, n: Index, block: Index, t: Index) -> None:
        b, plan = writer.b, writer.plan
        self._b, self._writer, self._image = b, writer, n
        self._tile = b.let(block * plan.block + t)
        self._when = b.when(self._tile < writer.total if writer.total % plan.block else None)

    def __enter__(self) -> tuple[Expr, Expr, Expr]:
        self._when.__enter__()
        b, down, across = self._b, self._writer.down, self._writer.across
        image, tile = self._image, self._tile
        if self._writer.plan.by_group:
            image, tile = b.let(tile // (down * across)), b.let(tile % (down * across))
        return image, b.let(tile // across), b.let(tile % across)

    def __exit__(self, *exc: object) -> None:
        self._when.__exit__(None, None, None)


def _inside(start: Expr, offset: int, extent: int, tile: int) -> Expr | None:
    """The condition that a tile's pixel lies on the map; None where it always does."""
    remainder = extent % tile
    return start + offset < extent if remainder and offset >= remainder else None
