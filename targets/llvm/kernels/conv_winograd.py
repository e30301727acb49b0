"""Winograd and Cook-Toom convolution: fewer multiplications for kernels of stride 1 and 2.

An output tile of m x m pixels costs (m + r - 1)^2 multiplications per channel pair instead of
m^2 r^2: 4x fewer for F(4,3), 2.25x for F(2,3); at stride 2 it is 1.8x for m = 4,
1.4x for m = 2. Per block of tiles: transform the data, then per group of output channels multiply
all transformed positions (one GEMM each) and at once transform back and apply the epilogue, so that
nothing but the block's data leaves the L2 cache.

Reference: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, even_tiles
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.cook_toom import Transform
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View


@dataclass(frozen=True)
class Plan:
    """How a convolution is tiled.

    Attributes:
        rows, columns: the transforms of the two axes.
        block: tiles per block; the transformed block should fit in L2.
        group: output channel blocks multiplied together.
        tile: the most tiles in one register tile of the GEMM.
    """

    rows: Transform
    columns: Transform
    block: int
    group: int
    tile: int

    @property
    def positions(self) -> int:
        """Multiplications per tile."""
        return self.rows.size * self.columns.size

    def tiles(self, spec: ConvSpec) -> tuple[int, int]:
        """Tiles per image, vertically and horizontally."""
        return -(-spec.out_height // self.rows.outputs), -(-spec.out_width // self.columns.outputs)

    def border(self, spec: ConvSpec) -> tuple[int, int, int, int]:
        """The border that the data must have for whole tiles to be read."""
        down, across = self.tiles(spec)
        top, left = spec.padding[:2]

        def after(transform: Transform, tiles: int, before: int, extent: int) -> int:
            reach = (tiles - 1) * transform.outputs * transform.stride + transform.size
            return max(reach - before - extent, 0)

        bottom = after(self.rows, down, top, spec.in_height)
        return top, left, bottom, after(self.columns, across, left, spec.in_width)


def pack_weights(weight: np.ndarray, plan: Plan, lanes: int) -> np.ndarray:
    """[out, in, kh, kw] -> [out group][position][in][group * lanes], transformed in float64."""
    gh, gw = plan.rows.matrices()[1], plan.columns.matrices()[1]
    out, depth = weight.shape[:2]
    transformed = np.einsum("xk,oikl,yl->xyoi", gh, weight.astype(np.float64), gw)
    width = plan.group * lanes
    packed = transformed.reshape(plan.positions, out // width, width, depth).transpose(1, 0, 3, 2)
    return np.ascontiguousarray(packed, np.float32)


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    plan: Plan,
    x: View,
    weight: Buffer,
    y: View,
    operands: Operands,
) -> None:
    """Write the kernel."""
    writer = _Writer(b, spec, plan, x, weight, y, operands)
    down, across = plan.tiles(spec)
    blocks = -(-down * across // plan.block)
    groups = y.blocks // plan.group
    batch = spec.batch
    with b.parallel(batch * y.blocks) as t:
        writer.borders(b.let(t // y.blocks), b.let(t % y.blocks))
    if blocks >= 4 or not isinstance(batch, int) or batch * blocks >= 4:
        with b.parallel(batch * blocks) as t:
            n, block = b.let(t // blocks), b.let(t % blocks)
            data = b.workspace(plan.positions * writer.data_stride)
            product = b.workspace(plan.positions * writer.product_stride)
            with b.loop(x.blocks) as cb:
                writer.transform_data(data, n, block, cb)
            with b.loop(groups) as g:
                writer.multiply(data, product, n, block, g)
        return
    # Few blocks: share out channels instead, in two parallel phases per block.
    data = b.workspace(plan.positions * writer.data_stride)
    with b.loop(batch * blocks) as t:
        n, block = b.let(t // blocks), b.let(t % blocks)
        with b.parallel(x.blocks) as cb:
            writer.transform_data(data, n, block, cb)
        with b.parallel(groups) as g:
            product = b.workspace(plan.positions * writer.product_stride)
            writer.multiply(data, product, n, block, g)


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
        self.down, self.across = plan.tiles(spec)
        # One line of padding: positions at power-of-two strides would share cache sets.
        self.data_stride = (x.blocks * plan.block + 1) * b.lanes
        self.product_stride = (plan.group * plan.block + 1) * b.lanes

    def borders(self, n: Index, cb: Index) -> None:
        self.y.zero_borders(self.b, n, cb)

    def transform_data(self, data: Buffer, n: Index, block: Index, cb: Index) -> None:
        b, plan, x = self.b, self.plan, self.x
        bt_rows, bt_columns = plan.rows.matrices()[0], plan.columns.matrices()[0]
        with b.loop(plan.block) as t, self._existing(block, t) as (ty, tx):
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
            at = b.let((cb * plan.block + t) * b.lanes)
            for r in range(plan.rows.size):
                line = linear(b, bt_columns, [column[r] for column in columns])
                for c, value in enumerate(line):
                    b.store(data, at + (r * plan.columns.size + c) * self.data_stride, value)

    def multiply(self, data: Buffer, product: Buffer, n: Index, block: Index, group: Index) -> None:
        b, plan = self.b, self.plan
        with b.loop(plan.positions) as position:
            for i, (start, size, count) in enumerate(even_tiles(plan.block, plan.tile)):
                with b.loop(count) as t:
                    self._gemm(data, product, group, position, t * size + start, size, i == 0)
        with b.loop(plan.group) as k:
            self._transform_back(product, n, block, group, k)

    def _gemm(
        self,
        data: Buffer,
        product: Buffer,
        group: Index,
        position: Index,
        first: Index,
        size: int,
        prefetch: bool,
    ) -> None:
        b, plan, lanes = self.b, self.plan, self.b.lanes
        width, depth = plan.group * lanes, self.spec.in_channels
        acc = [[b.register() for _ in range(size)] for _ in range(plan.group)]
        for registers in acc:
            for register in registers:
                register.set(b.splat(0.0))
        panel = b.let((group * plan.positions + position) * (depth * width))
        tiles = b.let(position * self.data_stride + first * lanes)
        with b.loop(depth // lanes) as block, b.loop(lanes) as lane:
            at = b.let(panel + (block * lanes + lane) * width)
            if prefetch:
                for k in range(plan.group):
                    b.prefetch(self.weight, at + k * lanes + _PREFETCH)
            weights = [b.let(b.load(self.weight, at + k * lanes)) for k in range(plan.group)]
            for t in range(size):
                value = b.let(
                    b.broadcast(data, tiles + block * (plan.block * lanes) + t * lanes + lane)
                )
                for k in range(plan.group):
                    acc[k][t].set(acc[k][t].get() + value * weights[k])
        for k in range(plan.group):
            for t in range(size):
                at = position * self.product_stride + (k * plan.block + first + t) * lanes
                b.store(product, at, acc[k][t].get())

    def _transform_back(
        self, product: Buffer, n: Index, block: Index, group: Index, k: Index
    ) -> None:
        b, plan, spec = self.b, self.plan, self.spec
        at_rows, at_columns = plan.rows.matrices()[2], plan.columns.matrices()[2]
        with b.loop(plan.block) as t, self._existing(block, t) as (ty, tx):
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

    def _existing(self, block: Index, t: Index) -> _Existing:
        return _Existing(self, block, t)


class _Existing:
    """Context: tile `t` of a block, if the map has it; yields its row and column."""

    def __init__(self, writer: _Writer, block: Index, t: Index) -> None:
        b, plan = writer.b, writer.plan
        total = writer.down * writer.across
        self._tile = b.let(block * plan.block + t)
        self._across = writer.across
        self._b = b
        self._when = b.when(self._tile < total if total % plan.block else None)

    def __enter__(self) -> tuple[Expr, Expr]:
        self._when.__enter__()
        return self._b.let(self._tile // self._across), self._b.let(self._tile % self._across)

    def __exit__(self, *exc: object) -> None:
        self._when.__exit__(None, None, None)


def _inside(start: Expr, offset: int, extent: int, tile: int) -> Expr | None:
    """The condition that a tile's pixel lies on the map; None where it always does."""
    remainder = extent % tile
    return start + offset < extent if remainder and offset >= remainder else None


def linear(b: KernelBuilder, matrix: np.ndarray, values: list[Expr]) -> list[Expr]:
    """matrix @ values, skipping zeros and ones and sharing work between rows of points p and -p.

    Such rows agree in the even columns and differ in sign in the odd ones (or the reverse), so
    that both come from one sum and one difference.
    """
    out: dict[int, Expr] = {}
    columns = np.arange(matrix.shape[1])
    for i, row in enumerate(matrix):
        if i in out:
            continue
        for sign in (1.0, -1.0):
            mirrored = row * np.where(columns % 2, -sign, sign)
            twin = next(
                (
                    j
                    for j in range(i + 1, len(matrix))
                    if np.allclose(matrix[j], mirrored, atol=1e-9)
                ),
                None,
            )
            even, odd = row * (columns % 2 == 0), row * (columns % 2)
            if twin is not None and np.any(even) and np.any(odd):
                e, o = _sum(b, even, values), _sum(b, odd, values)
                out[i] = b.let(e + o)
                out[twin] = b.let(e - o if sign > 0 else o - e)
                break
        else:
            out[i] = _sum(b, row, values)
    return [out[i] for i in range(len(matrix))]


def _sum(b: KernelBuilder, row: np.ndarray, values: list[Expr]) -> Expr:
    total: Expr | None = None
    for factor, value in zip(row, values):
        if factor == 0.0:
            continue
        if abs(factor) == 1.0 and total is not None:
            total = total + value if factor > 0 else total - value
            continue
        term = value if factor == 1.0 else b.splat(float(factor)) * value
        total = term if total is None else total + term
    return b.let(b.splat(0.0) if total is None else total)


_PREFETCH = 4096
