"""Wide kernels of stride 2 on images of few channels, by Cook and Toom's method along columns.

Four neighbouring results of a row take 13 multiplications per channel and row of a 7x7 kernel
instead of 28. Rows of the kernel are added up as channels are: with three channels of seven rows
a product is 21 deep, which is worth transforming back along one axis, but not along two.

A task computes a band of rows. It transforms the rows of the image under them once, 16 tiles at a
time: columns are sorted by their remainder modulo a tile's step, so that what a tile needs lies
at the same place of several short rows. Then each position is a product of tiles by outputs, as in
`conv_winograd`; weights are transformed when the model is compiled, since they are few.

Edges are read as zeros here, so that images are used where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.builder import (
    Buffer,
    Expr,
    Index,
    KernelBuilder,
    even_tiles,
    index,
)
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.cook_toom import Transform, linear
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View

_OUTPUTS, _STRIDE = 4, 2
# Columns from one tile to the next.
_STEP = _OUTPUTS * _STRIDE
# The most tiles of a register tile, by two vectors of outputs.
_TILES = 14
# Bands of rows per core: a band's first rows of the image are the one's before as well.
_BANDS = 4


def applies(spec: ConvSpec, lanes: int, registers: int) -> bool:
    """Whether the kernel is worth it, and the registers are there."""
    is_wide = spec.kernel[0] >= 5 and 5 <= spec.kernel[1] <= 7
    return (
        (lanes, registers) == (16, 32)
        and is_wide
        and (spec.stride[1], spec.dilation, spec.groups) == (_STRIDE, (1, 1), 1)
        and spec.in_channels < lanes
        and spec.out_channels % lanes == 0
        and spec.out_width >= 2 * _TILES
    )


def pack_weights(weight: np.ndarray, lanes: int) -> np.ndarray:
    """[out, in, kh, kw] -> [out group][position][kh][in][out lane], transformed."""
    out = len(weight)
    transformed = weight.astype(np.float64) @ _axis(weight.shape[3]).matrices()[1].T
    blocks = transformed.reshape(out // lanes, lanes, *transformed.shape[1:])
    parts = [blocks[first : first + size] for first, size in _groups(out // lanes)]
    panels = [part.transpose(4, 3, 2, 0, 1).reshape(-1) for part in parts]
    return np.concatenate(panels).astype(np.float32)


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    x: View,
    weight: Buffer,
    y: View,
    operands: Operands,
    cores: int,
) -> None:
    """Write the kernel. `weight` is what `pack_weights` returns."""
    rows = -(-spec.out_height // (_BANDS * cores))
    _Writer(b, spec, x, weight, y, operands, rows).write()


def _axis(taps: int) -> Transform:
    return Transform(_OUTPUTS, taps, _STRIDE)


def _groups(blocks: int) -> list[tuple[int, int]]:
    """Pairs of output blocks, and a single one where their number is odd."""
    return [(first, min(2, blocks - first)) for first in range(0, blocks, 2)]


@dataclass(frozen=True)
class _Place:
    """Results that are computed together.

    Attributes:
        image, row: where.
        tile, count: the first tile, and how many.
        block, group: the first block of outputs, and how many.
    """

    image: Index
    row: Index
    tile: Index
    block: Index
    group: int
    count: int


@dataclass(frozen=True)
class _Writer:
    """Writes the loops of one kernel.

    Attributes:
        b, spec, x, weight, y, operands: as of `emit`.
        rows: of the result, in a band.
    """

    b: KernelBuilder
    spec: ConvSpec
    x: View
    weight: Buffer
    y: View
    operands: Operands
    rows: int

    @property
    def positions(self) -> int:
        """Multiplications per tile."""
        return _axis(self.spec.kernel[1]).size

    @property
    def tiles(self) -> int:
        """Tiles of a row."""
        return -(-self.spec.out_width // _OUTPUTS)

    @property
    def pitch(self) -> int:
        """Tiles of a row in memory, in whole vectors; one more can be read."""
        return (self.tiles // self.b.lanes + 1) * self.b.lanes

    @property
    def position_size(self) -> int:
        """Transformed numbers of one position of a row."""
        return self.spec.in_channels * self.pitch

    def write(self) -> None:
        """Share out bands."""
        b, spec = self.b, self.spec
        bands = -(-spec.out_height // self.rows)
        image_rows = (self.rows - 1) * spec.stride[0] + spec.kernel[0]
        with b.parallel(spec.batch * bands) as t:
            n, band = b.let(t // bands), b.let(t % bands)
            first = b.let(band * self.rows)
            data = b.workspace(image_rows * self.positions * self.position_size)
            self._transform(data, n, first, image_rows)
            product = b.workspace(self.positions * 2 * _TILES * b.lanes)
            with b.loop(self.rows) as i:
                h = b.let(first + i)
                with b.when(h < spec.out_height if spec.out_height % self.rows else None):
                    self._row(data, product, n, h, i)

    def _transform(self, data: Buffer, n: Index, first: Index, image_rows: int) -> None:
        """The rows of the image under a band whose first row is `first`."""
        b, spec, lanes = self.b, self.spec, self.b.lanes
        line = b.workspace(self.pitch * _STEP)
        # A vector more: the last tiles of a vector read one beyond it.
        sorted_ = b.workspace(self.pitch * _STEP + lanes)
        vectors = self.pitch * _STEP // lanes
        with b.loop(vectors) as i:
            b.store(line, i * lanes, b.splat(0.0))
        top = b.let(first * spec.stride[0] - spec.padding[0])
        with b.loop(image_rows) as r, b.loop(spec.in_channels) as c:
            row = b.let(top + r)
            exists = tirx.And(row >= 0, row < spec.in_height)
            with b.when(exists):
                self._copy_row(line, n, c, row)
            with b.when(tirx.Not(exists)), b.loop(vectors) as i:
                b.store(line, i * lanes, b.splat(0.0))
            with b.loop(self.pitch // lanes) as group:
                self._sort(line, sorted_, group)
            to = b.let((r * self.positions * spec.in_channels + c) * self.pitch)
            axis = _axis(spec.kernel[1])
            with b.loop(-(-self.tiles // lanes)) as group:
                inputs = [
                    b.let(b.load(sorted_, j % _STEP * self.pitch + group * lanes + j // _STEP))
                    for j in axis.order
                ]
                for p, value in enumerate(linear(b, axis.matrices()[0], inputs)):
                    b.store(data, to + p * self.position_size + group * lanes, value)

    def _copy_row(self, line: Buffer, n: Index, c: Index, row: Index) -> None:
        """A row of a channel, behind the zeros to its left."""
        b, left = self.b, self.spec.padding[1]
        # Nothing is known of the address: images may lie anywhere.
        at = b.opaque(self.x.at(n, c, row, 0))
        width = min(self.spec.in_width, self.pitch * _STEP - left)
        whole, rest = divmod(width, b.lanes)
        with b.loop(whole) as i:
            b.store(line, i * b.lanes + left, b.load(self.x.buffer, at + i * b.lanes))
        if rest:
            value = b.load_partial(self.x.buffer, at + whole * b.lanes, rest)
            b.store_partial(line, whole * b.lanes + left, value, rest)

    def _sort(self, line: Buffer, to: Buffer, group: Index) -> None:
        """The columns of a vector of tiles, by their remainder modulo the step of a tile."""
        b, lanes = self.b, self.b.lanes
        at = b.let(group * (lanes * _STEP))
        level: list[tuple[list[int], Expr]] = [
            (
                list(range(i * lanes, (i + 1) * lanes)),
                b.let(b.load(line, at + i * lanes)),
            )
            for i in range(_STEP)
        ]
        # Neighbours are merged, and split by halves of their remainders, until one is left to each.
        width = _STEP
        while width > 1:
            merged = []
            for (low, first), (high, second) in zip(level[::2], level[1::2]):
                columns = [*low, *high]
                order = sorted(range(2 * lanes), key=lambda i: (columns[i] % _STEP, columns[i]))
                for half in (order[:lanes], order[lanes:]):
                    picks = [tirx.IntImm("int32", i) for i in half]
                    value = b.let(tirx.Shuffle([first, second], picks))
                    merged.append(([columns[i] for i in half], value))
            half_width = width // 2
            level = sorted(merged, key=lambda v: (v[0][0] % _STEP // half_width, v[0][0] // _STEP))
            width //= 2
        for columns, value in level:
            b.store(to, columns[0] % _STEP * self.pitch + group * lanes, value)

    def _row(self, data: Buffer, product: Buffer, n: Index, h: Index, i: Index) -> None:
        """Row `h` of the result, which is the `i`-th of its band."""
        b, lanes = self.b, self.b.lanes
        with b.loop(self.y.blocks) as block:
            self.y.zero_row_border(b, n, block, h)
        size = self.positions * self.spec.kernel[0] * self.spec.in_channels * lanes
        at = b.let(i * (self.spec.stride[0] * self.positions * self.position_size))
        pairs, single = divmod(self.y.blocks, 2)
        for start, count, sets in even_tiles(self.tiles, _TILES):
            with b.loop(sets) as s:
                tile = b.let(s * count + start)
                with b.loop(pairs) as pair:
                    place = _Place(n, h, tile, pair * 2, 2, count)
                    self._multiply(data, at + tile, product, pair * (2 * size), place)
                    self._finish(product, place)
                if single:
                    place = _Place(n, h, tile, index(pairs * 2), 1, count)
                    self._multiply(data, at + tile, product, index(pairs * 2 * size), place)
                    self._finish(product, place)

    def _multiply(
        self, data: Buffer, at: Index, product: Buffer, panel: Index, place: _Place
    ) -> None:
        """All positions of the tiles at `at`, by the weights at `panel`."""
        b, spec, lanes = self.b, self.spec, self.b.lanes
        group, count = place.group, place.count
        depth = spec.kernel[0] * spec.in_channels
        with b.loop(self.positions) as p:
            acc = [[b.register() for _ in range(count)] for _ in range(group)]
            for registers in acc:
                for register in registers:
                    register.set(b.splat(0.0))
            self._fetch_lines(p, place)
            here = b.let(at + p * self.position_size)
            weights = b.let(panel + p * (depth * group * lanes))
            with b.loop(spec.kernel[0]) as r, b.loop(spec.in_channels) as c:
                values = b.let(here + r * (self.positions * self.position_size) + c * self.pitch)
                factor = b.let(weights + (r * spec.in_channels + c) * (group * lanes))
                loaded = [b.let(b.load(self.weight, factor + k * lanes)) for k in range(group)]
                for t in range(count):
                    value = b.let(b.broadcast(data, values + t))
                    for k in range(group):
                        acc[k][t].set(acc[k][t].get() + value * loaded[k])
            for k, registers in enumerate(acc):
                for t, register in enumerate(registers):
                    to = (p * (2 * _TILES) + k * _TILES + t) * lanes
                    b.store(product, to, register.get())

    def _fetch_lines(self, p: Index, place: _Place) -> None:
        """Ask for the lines that results will go to, evenly over the positions.

        Maps are larger than what the caches of the cores hold, and results come all at once.
        """
        b, columns = self.b, place.count * _OUTPUTS
        share = -(-columns * place.group // self.positions)
        for line in range(share):
            i = b.let(p * share + line)
            k, w = i // columns, place.tile * _OUTPUTS + i % columns
            at = self.y.at(place.image, place.block + k, place.row, w)
            b.prefetch(self.y.buffer, b.let(at), writes=True)

    def _finish(self, product: Buffer, place: _Place) -> None:
        """Transform back, and write the results."""
        b, spec, lanes = self.b, self.spec, self.b.lanes
        n, h, group, count = place.image, place.row, place.group, place.count
        back, rest = _axis(spec.kernel[1]).matrices()[2], spec.out_width % _OUTPUTS
        with b.loop(group) as k, b.loop(count) as t:
            at = b.let((k * _TILES + t) * lanes)
            values = [
                b.let(b.load(product, at + p * (2 * _TILES * lanes))) for p in range(self.positions)
            ]
            w, cb = b.let((place.tile + t) * _OUTPUTS), b.let(place.block + k)
            line = linear(b, back, values)
            for c, value in b.each_of(line, rolled=self.operands.epilogue.is_heavy):
                is_inside = w + c < spec.out_width if rest else None
                with b.when(is_inside):
                    result = self.operands.apply(b, value, n, cb, h, w + c)
                    b.store(self.y.buffer, self.y.at(n, cb, h, w + c), result)
