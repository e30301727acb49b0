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

from collections.abc import Sequence

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
from relaxc.targets.llvm.kernels.winograd_product import (
    DataAhead,
    Fetch,
    MapAhead,
    PanelAhead,
    Product,
    WeightsAhead,
)

# Maps of more bytes leave the caches of all cores before they are read.
_LARGE_MAP = 6 << 20


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
        size = spec.in_channels * spec.in_height * spec.in_width * 4
        self.has_large_map = size > _LARGE_MAP
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
                self._block(b.workspace(size), 0, t, is_first=index(0) < 1)
            return
        with b.parallel(parts) as part:
            panels = b.workspace(self.groups * size)
            low = b.let(part * total // parts)
            with b.loop(b.let((part + 1) * total // parts - low)) as i:
                self._block(panels, size, low + i, is_first=i < 1)

    def _transform_group(self, panels: Buffer, at: Index, g: Index) -> None:
        with self.b.loop(self.x.blocks) as cb:
            self.transform_weights(panels, at, g, index(0), cb)

    def _block(self, panels: Buffer, size: int, t: Index, is_first: Expr | None = None) -> None:
        """A block of tiles; groups' weights lie `size` apart, all in one place where that is 0.

        If `is_first` holds, each group's weights are transformed when their turn comes, and the
        next ones fetched meanwhile. Without it all are transformed already.
        """
        b, plan = self.b, self.plan
        n, block = b.let(t // self.blocks), b.let(t % self.blocks)
        data = b.workspace(plan.positions * self.data_stride)
        product = b.workspace(plan.positions * self.product_stride)
        with b.loop(self.x.blocks) as cb:
            self.transform_data(data, index(0), n, block, cb)
        with b.loop(self.groups) as g:
            at = b.let(g * size)
            fetches: list[Fetch] = [PanelAhead(panels, plan.group)]
            if self.has_large_map:
                following = b.let(block + 1)
                fetches.append(MapAhead(self.x, plan, self.spec, self.across, n, following))
            if is_first is not None:
                with b.when(is_first):
                    self._transform_group(panels, at, g)
                fetches.append(self._weights_ahead(g, is_first))
            self.multiply(data, index(0), panels, at, product, fetches)
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
            fetches = [PanelAhead(panels, plan.group), self._weights_ahead(g, block < 1)]
            fetches += self._data_ahead(data)
            self.multiply(data, b.let(block * size), panels, index(0), product, fetches)
            self.finish(product, index(0), block, g)

    def _weights_ahead(self, g: Index, is_wanted: Expr) -> Fetch:
        """Those of the next group, which are used where `is_wanted` holds."""
        start = self.b.let((g + 1) * (self.spec.in_channels * self.row))
        share = -(-self.row // self.plan.positions)
        return WeightsAhead(self.weight, start, self.x.blocks, share, is_wanted)

    def _data_ahead(self, data: Buffer) -> list[Fetch]:
        """Data that the cores have transformed together."""
        if self.plan.parts:
            return []
        return [DataAhead(data, self.data_stride, self.plan.block)]

    def _add_parts(self, data: Buffer, panels: Buffer, product: Buffer, g: Index) -> None:
        """Some inputs at a time, while the next ones' weights are on their way from memory."""
        b, lanes = self.b, self.b.lanes
        for start, size, count in even_tiles(self.x.blocks, self.plan.depth):
            with b.loop(count) as part:
                first = b.let(part * size + start)
                with b.loop(size) as cb:
                    self.transform_weights(panels, index(0), g, first, cb)
                ahead = (g * self.spec.in_channels + (first + size) * lanes) * self.row
                share = -(-self.row // self.plan.positions)
                fetches = [WeightsAhead(self.weight, b.let(ahead), size, share, None)]
                at = b.let(first * (self.plan.block * lanes))
                self.multiply(
                    data, at, panels, index(0), product, fetches + self._data_ahead(data), size
                )

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
        fetches: Sequence[Fetch],
        depth: int | None = None,
    ) -> None:
        """Multiply a block of tiles, at `tiles`, with a group's weights, at `panel`.

        All inputs, or the `depth` next blocks of them, whose product is added to what is there.
        """
        b, plan = self.b, self.plan
        gemm = Product(
            b,
            plan,
            data,
            panels,
            product,
            self.product_stride,
            depth or self.x.blocks,
            self.in_parts,
            fetches,
        )
        with b.loop(plan.positions) as position:
            at = b.let(panel + position * self.panel_stride)
            row = b.let(tiles + position * self.data_stride)
            for start, size, count in even_tiles(plan.block, plan.tile):
                with b.loop(count) as t:
                    gemm.write(position, at, row, t * size + start, size, is_first=start == 0)

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
