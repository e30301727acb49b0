"""Depthwise convolution: the taps of one channel block stay in registers, columns are shared.

A tile of `rows` by `columns` outputs reads each input column once per row and feeds it to every
tap that needs it. Bound by L2 bandwidth, of which it reaches 77 to 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relaxc.targets.llvm.kernels.builder import Expr, Index, KernelBuilder, even_tiles
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View


def pack_weights(weight: np.ndarray, lanes: int) -> np.ndarray:
    """[channels, 1, kh, kw] -> [channel block][kh * kw][lanes]."""
    channels = weight.shape[0]
    flat = np.pad(weight.reshape(channels, -1), ((0, -channels % lanes), (0, 0)))
    packed = flat.reshape(-1, lanes, flat.shape[1]).transpose(0, 2, 1)
    return np.ascontiguousarray(packed, np.float32)


@dataclass(frozen=True)
class DepthwiseTile:
    """How a map is cut.

    Attributes:
        rows, columns: the most outputs in one tile, which share the inputs that they read.
        parts: tasks per map.
        keep: whether the weights stay in registers; else they are loaded at use.
    """

    rows: int
    columns: int
    parts: int
    keep: bool


def choose_tile(spec: ConvSpec, lanes: int) -> DepthwiseTile:
    """Two rows where inputs are shared between them and registers suffice."""
    # With many taps the weights no longer fit beside the accumulators: load them at use.
    keep = spec.kernel[0] * spec.kernel[1] <= 9
    wide = lanes == 16
    rows = 2 if keep and spec.stride == (1, 1) and spec.out_height > 14 and wide else 1
    # What a core wrote before it should read now: neighbours share out big maps by rows, too, and
    # maps of many channels by these.
    by_rows = spec.in_height * spec.in_width > spec.in_channels
    return DepthwiseTile(rows, 7 if wide else 3, 4 if by_rows else 1, keep)


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    tile: DepthwiseTile,
    x: View,
    weight: View,
    y: View,
    operands: Operands,
) -> None:
    """Write the kernel. `weight.row` is the length of one block's packed weights."""
    taps = spec.kernel[0] * spec.kernel[1]
    keep, rows, columns = tile.keep, tile.rows, tile.columns
    largest = max(rows, -(-spec.out_height // tile.parts))
    for start, size, count in even_tiles(spec.out_height, largest):
        with b.parallel(spec.batch * y.blocks * count) as t:
            many = not (isinstance(spec.batch, int) and spec.batch == 1)
            n = b.let(t // (count * y.blocks)) if many else 0
            part = b.let(t % (count * y.blocks)) if many else t
            cb = b.let(part % y.blocks)
            first = b.let(part // y.blocks * size + start)
            held = (
                [b.let(b.load(weight.buffer, cb * weight.row + i * b.lanes)) for i in range(taps)]
                if keep
                else None
            )
            for offset, height, repeats in even_tiles(size, rows):
                with b.loop(repeats) as r:
                    h = b.let(first + r * height + offset)
                    for i in range(height):
                        y.zero_row_border(b, n, cb, h + i)
                    for left, width, tiles in even_tiles(spec.out_width, columns):
                        with b.loop(tiles) as w:
                            at = w * width + left
                            _tile(
                                b, spec, x, weight, y, operands, held, n, cb, h, at, height, width
                            )


def _tile(
    b: KernelBuilder,
    spec: ConvSpec,
    x: View,
    weight: View,
    y: View,
    operands: Operands,
    held: list[Expr] | None,
    n: Index,
    cb: Index,
    h: Index,
    w: Index,
    rows: int,
    columns: int,
) -> None:
    (kh, kw), (sh, sw), (dh, dw) = spec.kernel, spec.stride, spec.dilation
    base = b.let(x.at(n, cb, h * sh - spec.padding[0], w * sw - spec.padding[1]))
    acc: list[list[Expr | None]] = [[None] * columns for _ in range(rows)]
    for line in range((rows - 1) * sh + (kh - 1) * dh + 1):
        loaded: dict[int, Expr] = {}
        weights: dict[int, Expr] = {}
        for r in range(rows):
            i, remainder = divmod(line - r * sh, dh)
            if remainder or not 0 <= i < kh:
                continue
            for j in range(kw):
                tap = i * kw + j
                if held is None and tap not in weights:
                    weights[tap] = b.let(b.load(weight.buffer, cb * weight.row + tap * b.lanes))
                factor = weights[tap] if held is None else held[tap]
                for c in range(columns):
                    column = c * sw + j * dw
                    if column not in loaded:
                        at = base + line * x.row + column * x.pixel
                        loaded[column] = b.let(b.load(x.buffer, at))
                    term = loaded[column] * factor
                    value = acc[r][c]
                    acc[r][c] = b.let(term if value is None else value + term)
    for r in range(rows):
        for c, value in b.each_of(acc[r], rolled=operands.epilogue.is_heavy):
            result = operands.apply(b, value, n, cb, h + r, w + c)
            b.store(y.buffer, y.at(n, cb, h + r, w + c), result)
