"""A pointwise convolution, and a depthwise one of its result, row by row.

A task computes some rows of some channels. Of the first convolution's result it holds as many rows
as a window has, in a ring that stays in the L1 cache: the map, several times as large as what comes
in and what goes out, is never written. Tasks compute the rows where they meet twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx

from relaxc.layout import Layout
from relaxc.targets.llvm.kernels.arithmetic import Arithmetic
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, even_tiles
from relaxc.targets.llvm.kernels.conv_direct import Placement, Writer
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.direct_tile import Tile
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View

# Windows of more taps would not stay in registers.
_MOST_TAPS = 9


@dataclass(frozen=True)
class Stage:
    """One of the two convolutions.

    Attributes:
        spec: what it computes.
        weight: packed, as a view whose rows are one channel block's.
        operands: of its epilogue.
    """

    spec: ConvSpec
    weight: View
    operands: Operands


@dataclass(frozen=True)
class _Ring(Placement):
    """Rows of the map in between, of which `rows` exist at a time."""

    rows: int = 1

    def row(self, h: Index) -> Index:
        """Where a row lies."""
        return h % self.rows


def emit(
    b: KernelBuilder,
    first: Stage,
    second: Stage,
    tile: Tile,
    bands: int,
    x: View,
    y: View,
    arithmetic: Arithmetic,
) -> None:
    """Write the kernel: of one image.

    Args:
        b: the kernel.
        first, second: the convolutions.
        tile: of the first; its blocks are the channels of a task.
        bands: parts that rows of the result are cut into.
        x, y: data and result.
        arithmetic: of the first.
    """
    # All tasks but few of a core read the same weights.
    tile = replace(tile, rows_outer=True)
    data = arithmetic.view(b, x)
    full, rest = divmod(y.blocks, tile.blocks)
    for start, groups, count in ((0, full, tile.blocks), (full * tile.blocks, 1, rest)):
        if not groups or not count:
            continue
        with b.parallel(groups * bands) as t:
            cb = b.let(t % groups * tile.blocks + start)
            low = b.let(t // groups * second.spec.out_height // bands)
            high = b.let((t // groups + 1) * second.spec.out_height // bands)
            _band(b, first, second, tile, data, y, arithmetic, cb, count, low, high)


def _band(
    b: KernelBuilder,
    first: Stage,
    second: Stage,
    tile: Tile,
    x: View,
    y: View,
    arithmetic: Arithmetic,
    cb: Index,
    count: int,
    low: Index,
    high: Index,
) -> None:
    spec = second.spec
    (kh, _), (sh, _), (top, left, _, right) = spec.kernel, spec.stride, spec.padding
    columns = left + spec.in_width + right
    pitch = columns * b.lanes
    work = b.workspace(count * kh * pitch, name="ring")
    with b.loop(count * kh) as line:
        for column in (*range(left), *range(columns - right, columns)):
            b.store(work, line * pitch + column * b.lanes, b.splat(0.0))
    ring = View(
        *(work, spec.in_channels, kh, spec.in_width, b.lanes, 0, kh * pitch, pitch, b.lanes),
        origin=left * b.lanes - cb * (kh * pitch),
        layout=Layout("blocked", b.lanes),
    )
    placement = _Ring(rows=kh)
    writer = Writer(
        *(b, first.spec, tile, x, first.weight, ring, first.operands, arithmetic, placement),
        has_border=True,
    )

    def expand(row: Index) -> None:
        exists = tirx.And(row >= 0, row < spec.in_height)
        with b.when(exists):
            writer.row(0, cb, count, row)
        with b.when(tirx.Not(exists)), b.loop(count) as k, b.loop(spec.in_width) as w:
            # Rows count from 0 in the remainder, too.
            b.store(work, ring.at(0, cb + k, (row + kh) % kh, w), b.splat(0.0))

    kept = kh - sh  # rows that the window before has in common with this one
    with b.loop(kept) as i:
        expand(b.let(low * sh - top + i))
    with b.loop(high - low) as r:
        h = b.let(low + r)
        with b.loop(sh) as i:
            expand(b.let(h * sh - top + kept + i))
        for k in range(count):
            y.zero_row_border(b, 0, cb + k, h)
            _row(b, second, ring, y, cb + k, h)


def _row(b: KernelBuilder, stage: Stage, ring: View, y: View, cb: Index, h: Index) -> None:
    """A row of the depthwise convolution, of one channel block."""
    spec = stage.spec
    (kh, kw), (sh, _), (top, *_) = spec.kernel, spec.stride, spec.padding
    at = [b.let(ring.at(0, cb, (h * sh - top + kh + i) % kh, 0)) for i in range(kh)]
    keep = kh * kw <= _MOST_TAPS
    base = cb * stage.weight.row

    def tap(i: int) -> Expr:
        return b.let(b.load(stage.weight.buffer, base + i * b.lanes))

    held = [tap(i) for i in range(kh * kw)] if keep else None
    for start, width, tiles in even_tiles(spec.out_width, 7 if b.lanes == 16 else 3):
        with b.loop(tiles) as t:
            w = b.let(t * width + start)
            acc: list[Expr | None] = [None] * width
            for i in range(kh):
                taps = held[i * kw : i * kw + kw] if held else [tap(i * kw + j) for j in range(kw)]
                acc = _add_row(b, spec, ring.buffer, at[i], w, taps, acc)
            for c, value in b.each_of(acc, rolled=stage.operands.epilogue.is_heavy):
                result = stage.operands.apply(b, value, 0, cb, h, w + c)
                b.store(y.buffer, y.at(0, cb, h, w + c), result)


def _add_row(
    b: KernelBuilder,
    spec: ConvSpec,
    buffer: Buffer,
    at: Index,
    w: Index,
    taps: list[Expr],
    acc: list[Expr | None],
) -> list[Expr | None]:
    """Sums, and the products of one row of the window."""
    stride, sums = spec.stride[1], list(acc)
    loaded: dict[int, Expr] = {}
    for j, factor in enumerate(taps):
        for c, total in enumerate(sums):
            column = c * stride + j
            if column not in loaded:
                where = at + (w * stride + (column - spec.padding[1])) * b.lanes
                loaded[column] = b.let(b.load(buffer, where))
            term = loaded[column] * factor
            sums[c] = b.let(term if total is None else total + term)
    return sums
