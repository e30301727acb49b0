"""Depthwise convolution of bytes: four pixels of a channel are the operands of one dot product.

Neighbouring pixels of a channel block fill a vector. Its bytes are permuted, so that each lane has
the four pixels of its channel: a *window*. Weights are laid out to match, one arrangement for every
place that an output's taps may have in a window; what is no tap of it is zero. Where three taps
leave room, a window serves two neighbouring outputs: less than half of the instructions that
multiplying in float32 takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx import IntImm

from relaxc.targets.llvm.kernels.arithmetic import Arithmetic
from relaxc.targets.llvm.kernels.builder import (
    Buffer,
    Expr,
    Index,
    KernelBuilder,
    even_tiles,
    vector,
)
from relaxc.targets.llvm.kernels.conv_depthwise import DepthwiseTile
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View

# Pixels that a dot product takes of each channel.
_PIXELS = 4
# Registers that hold weights over a whole task, at most.
_MOST_HELD = 9

# Which tap of a row each pixel of a window is for an output; None: not one of its own.
Places = tuple[int | None, ...]


@dataclass(frozen=True)
class Window:
    """Four neighbouring pixels of a row, and the outputs that take them.

    Attributes:
        start: the first pixel, counted from the tile's first.
        outputs: outputs of the tile, and what the pixels are for each.
    """

    start: int
    outputs: tuple[tuple[int, Places], ...]


def windows(kernel: int, stride: int, dilation: int, columns: int) -> list[Window]:
    """Windows for a row of outputs; every tap of each is in one of them."""
    reach = (kernel - 1) * dilation
    width = (columns - 1) * stride + reach + 1
    starts: list[int] = []
    # Whole outputs where they fit, else one window after the other; none beyond the last pixel.
    if reach < _PIXELS:
        for c in range(columns):
            if not starts or c * stride + reach >= starts[-1] + _PIXELS:
                starts.append(max(0, min(c * stride, width - _PIXELS)))
    else:
        starts = [max(0, min(s, width - _PIXELS)) for s in range(0, width, _PIXELS)]
    found: list[list[tuple[int, Places]]] = [[] for _ in starts]
    for c in range(columns):
        missing = {c * stride + j * dilation: j for j in range(kernel)}
        whole = [s for s in starts if s <= c * stride and c * stride + reach < s + _PIXELS]
        for start, outputs in zip(starts, found):
            if whole and start != whole[0]:
                continue
            places = tuple(missing.pop(start + p, None) for p in range(_PIXELS))
            if any(place is not None for place in places):
                outputs.append((c, places))
        assert not missing, "windows cover the whole row"
    return [Window(s, tuple(outputs)) for s, outputs in zip(starts, found)]


def widths(spec: ConvSpec, tile: DepthwiseTile) -> list[int]:
    """The numbers of columns that tiles have."""
    return [size for _, size, _ in even_tiles(spec.out_width, tile.columns)]


def arrangements(spec: ConvSpec, tile: DepthwiseTile) -> list[Places]:
    """All arrangements of a row's weights that the kernel needs."""
    found: dict[Places, None] = {}
    for columns in widths(spec, tile):
        for window in windows(spec.kernel[1], spec.stride[1], spec.dilation[1], columns):
            found.update((places, None) for _, places in window.outputs)
    return list(found)


def stored(places: list[Places], kh: int) -> dict[Places, tuple[int, int]]:
    """Each arrangement: which of the stored ones it is, and by how many pixels it is moved.

    Those that registers hold are made from others by a shift, where that gives all of them.
    """
    kept: list[Places] = []
    found: dict[Places, tuple[int, int]] = {}
    # The earlier in a window, the more can be made of it.
    for arrangement in sorted(places, key=lambda p: [place is None for place in p]):
        moved = _moved(arrangement, kept) if kh * len(places) <= _MOST_HELD else None
        if moved is None:
            kept.append(arrangement)
            moved = len(kept) - 1, 0
        found[arrangement] = moved
    return found


def _moved(arrangement: Places, kept: list[Places]) -> tuple[int, int] | None:
    for k, other in enumerate(kept):
        for by in range(1, _PIXELS):
            lost = other[_PIXELS - by :]
            if arrangement == (None,) * by + other[: _PIXELS - by] and not any(
                place is not None for place in lost
            ):
                return k, by
    return None


def applies(spec: ConvSpec, tile: DepthwiseTile) -> bool:
    """Whether no window is wider than the row of pixels that its tile reads."""
    reach = (spec.kernel[1] - 1) * spec.dilation[1] + 1
    return all((c - 1) * spec.stride[1] + reach >= _PIXELS for c in widths(spec, tile))


def pack_weights(weight: np.ndarray, every: list[Places], lanes: int) -> np.ndarray:
    """int8 [channels, 1, kh, kw] -> int32 [channel block][kh][stored arrangement][lanes]."""
    channels, _, kh, _ = weight.shape
    places = [arrangement for arrangement, (_, by) in stored(every, kh).items() if not by]
    rows = np.pad(weight[:, 0], ((0, -channels % lanes), (0, 0), (0, 0)))
    packed = np.zeros((len(rows), kh, len(places), _PIXELS), np.int8)
    for a, arrangement in enumerate(places):
        for p, tap in enumerate(arrangement):
            if tap is not None:
                packed[:, :, a, p] = rows[:, :, tap]
    words = packed.reshape(-1, lanes, kh, len(places), _PIXELS).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(words).view(np.int32)[..., 0]


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    tile: DepthwiseTile,
    x: View,
    weight: Buffer,
    y: View,
    operands: Operands,
    arithmetic: Arithmetic,
) -> None:
    """Write the kernel; `x` has neighbouring pixels side by side."""
    assert x.pixel == b.lanes, "windows are of whole channel blocks"
    kh = spec.kernel[0]
    places = stored(arrangements(spec, tile), kh)
    count_kept = sum(not by for _, by in places.values())
    largest = max(tile.rows, -(-spec.out_height // tile.parts))
    for start, size, count in even_tiles(spec.out_height, largest):
        with b.parallel(spec.batch * y.blocks * count) as t:
            many = not (isinstance(spec.batch, int) and spec.batch == 1)
            n = b.let(t // (count * y.blocks)) if many else 0
            part = b.let(t % (count * y.blocks)) if many else t
            cb = b.let(part % y.blocks)
            first = b.let(part // y.blocks * size + start)
            held: dict[tuple[int, Places], Expr] = {}
            if kh * len(places) <= _MOST_HELD:
                for i in range(kh):
                    for arrangement, (kept, by) in places.items():
                        word = b.load(weight, ((cb * kh + i) * count_kept + kept) * b.lanes)
                        if by:
                            word = tirx.shift_left(word, b.splat(8 * by, dtype="int32"))
                        held[i, arrangement] = b.let(word)
            writer = _Writer(b, spec, x, weight, y, operands, arithmetic, list(places), held)
            for offset, height, repeats in even_tiles(size, tile.rows):
                with b.loop(repeats) as r:
                    h = b.let(first + r * height + offset)
                    for i in range(height):
                        y.zero_row_border(b, n, cb, h + i)
                    for left, width, tiles in even_tiles(spec.out_width, tile.columns):
                        with b.loop(tiles) as w:
                            writer.tile(n, cb, h, w * width + left, height, width)


@dataclass(frozen=True)
class _Writer:
    b: KernelBuilder
    spec: ConvSpec
    x: View
    weight: Buffer
    y: View
    operands: Operands
    arithmetic: Arithmetic
    places: list[Places]
    held: dict[tuple[int, Places], Expr]

    def tile(self, n: Index, cb: Index, h: Index, w: Index, rows: int, columns: int) -> None:
        """`rows` by `columns` outputs."""
        b, spec, x = self.b, self.spec, self.x
        (kh, kw), (sh, sw), (dh, dw) = spec.kernel, spec.stride, spec.dilation
        base = b.let(x.at(n, cb, h * sh - spec.padding[0], w * sw - spec.padding[1]))
        acc = self.arithmetic.accumulators(b, rows * columns, cb, 1)[0]
        for line in range((rows - 1) * sh + (kh - 1) * dh + 1):
            taps = {r: divmod(line - r * sh, dh) for r in range(rows)}
            readers = {r: i for r, (i, rest) in taps.items() if not rest and 0 <= i < kh}
            if not readers:
                continue
            for window in windows(kw, sw, dw, columns):
                value = self._pixels(base + line * x.row + window.start * x.pixel)
                for r, i in readers.items():
                    for c, places in window.outputs:
                        total = acc[r * columns + c]
                        product = b.dot_uint8(total.get(), value, self._weight(cb, i, places))
                        total.set(product)
        for r in range(rows):
            row = [self.arithmetic.result(b, a.get(), cb) for a in acc[r * columns :][:columns]]
            for c, real in b.each_of(row, rolled=self.operands.epilogue.is_heavy):
                result = self.operands.apply(b, real, n, cb, h + r, w + c)
                b.store(self.y.buffer, self.y.at(n, cb, h + r, w + c), result)

    def _pixels(self, at: Index) -> Expr:
        """Four pixels of a channel block from `at` on, those of a channel side by side."""
        b, lanes = self.b, self.b.lanes
        stored = tirx.BufferLoad(self.x.buffer.data, [tirx.Ramp(at, IntImm("int64", 1), 4 * lanes)])
        order = [p * lanes + lane for lane in range(lanes) for p in range(_PIXELS)]
        turned = tirx.Shuffle([stored], [IntImm("int32", k) for k in order])
        return b.let(tirx.reinterpret(vector("int32", lanes), turned))

    def _weight(self, cb: Index, row: int, places: Places) -> Expr:
        if (row, places) in self.held:
            return self.held[row, places]
        kh, count = self.spec.kernel[0], len(self.places)
        at = ((cb * kh + row) * count + self.places.index(places)) * self.b.lanes
        return self.b.load(self.weight, at)
