"""Move a tensor from one layout to another, borders included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.rounding import quantized
from relaxc.targets.llvm.kernels.streaming import pays
from relaxc.targets.llvm.kernels.turn import Place, Tile, Turn, emit_turn, transpose
from relaxc.targets.llvm.kernels.view import View

# Bytes that are stored at once.
_WORD = 4


def emit(b: KernelBuilder, x: View, y: View, batch: Any) -> None:
    """Write the kernel.

    Between plain and vector layouts, square tiles of lanes x lanes are transposed in registers.
    """
    if x.block == y.block:
        _copy(b, x, y, batch)
    elif _streamed(b, x, y, batch):
        return
    elif x.block == 1:
        _from_plain(b, x, y, batch)
    else:
        _to_plain(b, x, y, batch)


def convert(b: KernelBuilder, x: Buffer, y: Buffer) -> None:
    """Store the elements of `x` as those of `y` are, in the same order; any shape."""
    size = x.data.shape[0]
    step = 4 * b.lanes
    with b.parallel(simple((size + (step - 1)) // step)) as t:
        first = b.let(t * step)
        with b.when(first + step <= size):
            for i in range(4):
                b.store(y, first + i * b.lanes, b.load(x, first + i * b.lanes))
        with b.when(first + step > size), b.loop(b.let(size - first)) as i:
            b.store(y, first + i, b.load(x, first + i, 1), 1)


def _copy(b: KernelBuilder, x: View, y: View, batch: Any) -> None:
    """Same unit of channels on both sides: move it pixel by pixel, or row by row when plain."""
    with b.parallel(batch * y.blocks * y.height) as t:
        h, plane = b.let(t % y.height), b.let(t // y.height)
        n, cb = b.let(plane // y.blocks), b.let(plane % y.blocks)
        y.zero_row_border(b, n, cb, h)
        if y.block == 1:
            _move_run(b, x, y, n, cb, h)
            return
        tail = y.channels % y.block if y.layout.kind == "last" or x.layout.kind == "last" else 0
        with b.loop(y.width) as w:
            source, target = x.at(n, cb, h, w), y.at(n, cb, h, w)
            if not tail:
                b.store(y.buffer, target, b.load(x.buffer, source))
            else:
                with b.when(cb < y.blocks - 1):
                    b.store(y.buffer, target, b.load(x.buffer, source))
                with b.when(cb >= y.blocks - 1):
                    b.store_partial(y.buffer, target, b.load_partial(x.buffer, source, tail), tail)


def _move_run(b: KernelBuilder, x: View, y: View, n: Index, c: Index, h: Index) -> None:
    whole, rest = divmod(y.width, b.lanes)
    with b.loop(whole) as i:
        b.store(y.buffer, y.at(n, c, h, i * b.lanes), b.load(x.buffer, x.at(n, c, h, i * b.lanes)))
    for i in range(rest):
        w = whole * b.lanes + i
        b.store(y.buffer, y.at(n, c, h, w), b.load(x.buffer, x.at(n, c, h, w), 1), 1)


def _streamed(b: KernelBuilder, x: View, y: View, batch: Any) -> bool:
    """Between channels first and last of what no cache holds; False for what is more than that."""
    kinds = {x.layout.kind, y.layout.kind}
    is_plain = [v.buffer.quantization is None and not v.buffer.is_bfloat16 for v in (x, y)]
    if kinds != {"plain", "last"} or not all(is_plain) or any((*x.layout.border, *y.layout.border)):
        return False
    pixels = y.height * y.width
    turned, last = (pixels, y.channels) if y.layout.kind == "last" else (y.channels, pixels)
    tile = Tile.of(b.lanes, 4, turned, last)
    if tile is None:
        return False

    def place(view: View) -> Place:
        def at(indices: Sequence[Index], row: Index, column: Index) -> Expr:
            pixel, channel = (row, column) if y.layout.kind == "last" else (column, row)
            first = view.at(indices[0], 0, 0, pixel)
            return first + channel * (view.plane if view.block == 1 else 1)

        return at

    pitch = y.plane if y.block == 1 else y.pixel
    starts = (y.origin, y.image, pitch)
    if last % tile.width or not pays(b, batch * y.channels * pixels, 4, starts):
        return False
    turn = Turn([batch], turned, last, place(x), place(y), pitch, streams=True)
    emit_turn(b, turn, tile, x.buffer, y.buffer)
    return True


def _from_plain(b: KernelBuilder, x: View, y: View, batch: Any) -> None:
    with b.parallel(batch * y.blocks * y.height) as t:
        h, plane = b.let(t % y.height), b.let(t // y.height)
        n, cb = b.let(plane // y.blocks), b.let(plane % y.blocks)
        y.zero_row_border(b, n, cb, h)
        for count in parts(b, cb, x.channels):
            _gather_rows(b, x, y, n, cb, h, count)


def parts(b: KernelBuilder, cb: Index, channels: int) -> Iterator[int]:
    """How many channels a block holds: as many as a vector, or what is left for the last one."""
    whole, rest = divmod(channels, b.lanes)
    is_tail = cb >= whole
    if whole:
        with b.when(tirx.Not(is_tail) if rest else None):
            yield b.lanes
    if rest:
        with b.when(is_tail if whole else None):
            yield rest


def _gather_rows(
    b: KernelBuilder, x: View, y: View, n: Index, cb: Index, h: Index, channels: int
) -> None:
    lanes = b.lanes
    whole, rest = divmod(y.width, lanes)
    partial = channels < lanes and y.layout.kind == "last"

    def write(w: Index, value: Expr) -> None:
        if partial:
            b.store_partial(y.buffer, y.at(n, cb, h, w), value, channels)
        else:
            b.store(y.buffer, y.at(n, cb, h, w), value)

    # The channels of an image, in a network on integers.
    fits_word = channels <= _WORD and y.buffer.quantization is not None and not partial
    words = b.grouped(y.buffer, _WORD) if fits_word else None
    with b.loop(whole) as i:
        w = b.let(i * lanes)
        rows = [b.let(b.load(x.buffer, x.at(n, cb * lanes + c, h, w))) for c in range(channels)]
        if words is not None:
            _store_words(b, y, words, b.let(y.at(n, cb, h, w) // _WORD), rows)
        else:
            rows += [b.splat(0.0)] * (lanes - channels)
            for j, value in enumerate(transpose(b, rows)):
                write(w + j, value)
    for j in range(rest):
        w = whole * lanes + j
        values = [
            b.load(x.buffer, x.at(n, cb * lanes + c, h, w), 1)
            if c < channels
            else tirx.FloatImm("float32", 0.0)
            for c in range(lanes)
        ]
        write(w, tirx.Shuffle(values, [tirx.IntImm("int32", i) for i in range(lanes)]))


def _store_words(b: KernelBuilder, y: View, words: Buffer, at: Index, rows: list[Expr]) -> None:
    """Store pixels of up to four channels, a vector of pixels per channel, at word `at`.

    The bytes of a pixel become one int32, so that vectors of pixels are quantized before they are
    spread, and not every pixel with its mostly empty vector afterwards.
    """
    params, lanes = y.buffer.quantization, b.lanes
    assert params is not None
    # What follows the channels is as good as zero.
    zero = int.from_bytes(bytes([params.zero_point] * _WORD), "little", signed=True)
    word = b.splat(0, dtype="int32")
    for c in range(_WORD):
        byte = (
            quantized(rows[c], params, lanes)
            if c < len(rows)
            else b.splat(params.zero_point, dtype="int32")
        )
        word = b.let(tirx.bitwise_or(word, tirx.shift_left(byte, b.splat(8 * c, dtype="int32"))))
    rest = b.let(b.splat(zero, dtype="int32"))
    of_pixel = lanes // _WORD
    for part in range(of_pixel):
        picks = [part * _WORD + k // of_pixel if k % of_pixel == 0 else lanes for k in range(lanes)]
        pixels = tirx.Shuffle([word, rest], [tirx.IntImm("int32", k) for k in picks])
        b.store(words, at + part * lanes, pixels)


def _to_plain(b: KernelBuilder, x: View, y: View, batch: Any) -> None:
    lanes = b.lanes
    with b.parallel(batch * x.blocks * y.height) as t:
        h, plane = b.let(t % y.height), b.let(t // y.height)
        n, cb = b.let(plane // x.blocks), b.let(plane % x.blocks)
        for count in parts(b, cb, y.channels):
            for c in range(count):
                y.zero_row_border(b, n, cb * lanes + c, h)
            _scatter_rows(b, x, y, n, cb, h, count)


def _scatter_rows(
    b: KernelBuilder, x: View, y: View, n: Index, cb: Index, h: Index, channels: int
) -> None:
    lanes = b.lanes
    whole, rest = divmod(y.width, lanes)

    def read(w: Index) -> Expr:
        at = x.at(n, cb, h, w)
        partial = channels < lanes and x.layout.kind == "last"
        return b.let(b.load_partial(x.buffer, at, channels) if partial else b.load(x.buffer, at))

    with b.loop(whole) as i:
        w = b.let(i * lanes)
        rows = transpose(b, [read(w + j) for j in range(lanes)])
        for c in range(channels):
            b.store(y.buffer, y.at(n, cb * lanes + c, h, w), rows[c])
    for j in range(rest):
        w = whole * lanes + j
        value = read(w)
        for c in range(channels):
            element = tirx.Shuffle([value], [tirx.IntImm("int32", c)])
            b.store(y.buffer, y.at(n, cb * lanes + c, h, w), element, 1)
