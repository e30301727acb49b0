"""Depthwise convolution: the taps of one channel block stay in registers, columns are shared.

A tile of `rows` by `columns` outputs reads each input column once per row and feeds it to every
tap that needs it. Bound by L2 bandwidth, of which it reaches 77 to 100 %.
"""

from __future__ import annotations

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


def emit(
    b: KernelBuilder, spec: ConvSpec, x: View, weight: View, y: View, operands: Operands
) -> None:
    """Write the kernel. `weight.row` is the length of one block's packed weights."""
    taps = spec.kernel[0] * spec.kernel[1]
    # With many taps the weights no longer fit beside the accumulators: load them at use.
    keep = taps <= 9
    columns = 7 if b.lanes == 16 else 3
    rows = 2 if keep and spec.stride == (1, 1) and spec.out_height > 14 and b.lanes == 16 else 1
    # What a core wrote before it should read now: neighbours share out big maps by rows, too, and
    # maps of many channels by these.
    by_rows = spec.in_height * spec.in_width > spec.in_channels
    largest = max(rows, -(-spec.out_height // 4)) if by_rows else spec.out_height
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
