"""Stack planes of a volume as channels of maps, each plane copied once, borders included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, index
from relaxc.targets.llvm.kernels.relayout import parts
from relaxc.targets.llvm.kernels.turn import transpose
from relaxc.targets.llvm.kernels.view import View


@dataclass(frozen=True)
class Volume:
    """A volume in memory.

    Attributes:
        view: its planes as maps: what lies in one, and in a block of its channels.
        batch, plane, block: elements from one volume, plane, or block of channels to the next.
    """

    view: View
    batch: int
    plane: int
    block: int

    @staticmethod
    def of(view: View, depth: int, channels_first: bool) -> Volume:
        """Planes one behind the other; or, plain only, for each channel."""
        if channels_first:
            map_ = view.height * view.width
            return Volume(view, view.channels * depth * map_, map_, depth * map_)
        return Volume(view, depth * view.image, view.image, view.plane)

    def at(self, n: Index, plane: Index, block: Index) -> Expr:
        """Index of the first pixel of a block of channels."""
        return n * self.batch + plane * self.plane + block * self.block + self.view.origin


def emit_planes(b: KernelBuilder, x: Volume, y: View, table: Buffer) -> None:
    """Write the kernel.

    Vectors of channels are copied; between plain and vector layouts, squares of lanes x lanes are
    transposed in registers.

    Args:
        b: the builder.
        x: plain without a border, or in vectors of channels that no two planes share.
        y: channels in vectors, one plane's behind the other's.
        table: [outputs, taps], the planes to stack; below 0: zeros.
    """
    outputs, taps = (int(size) for size in table.shape)
    total = y.buffer.shape[0]
    with b.parallel(total * y.blocks) as t:
        image, cb = b.let(t // y.blocks), b.let(t % y.blocks)
        n, first = b.let(image // outputs), b.let(image % outputs * taps)
        y.zero_borders(b, image, cb)
        if x.view.channels % b.lanes == 0:
            blocks = x.view.channels // b.lanes
            plane = _entry(b, table, first + cb // blocks)
            with b.when(plane < 0), b.loop(y.height) as h, b.loop(y.width) as w:
                b.store(y.buffer, y.at(image, cb, h, w), b.splat(0.0))
            with b.when(plane >= 0):
                if x.view.block > 1:
                    _copy(b, x, y, (n, plane, b.let(cb % blocks)), (image, cb))
                else:
                    channel = b.let(cb % blocks * b.lanes)
                    places = [b.let(x.at(n, plane, channel + c)) for c in range(b.lanes)]
                    _turn(b, x, y, [(place, None) for place in places], (image, cb))
            return
        for count in parts(b, cb, y.channels):
            _turn(b, x, y, list(_mixed(b, x, table, n, first, cb, count)), (image, cb))


def _entry(b: KernelBuilder, table: Buffer, at: Index) -> Expr:
    return b.let(tirx.Cast("int64", b.load(table, at, 1)))


def _mixed(
    b: KernelBuilder, x: Volume, table: Buffer, n: Index, first: Index, cb: Index, count: int
) -> Iterator[tuple[Expr, Expr | None]]:
    """Where each channel of a block begins that several planes share, and whether it is there."""
    for lane in range(count):
        channel = b.let(cb * b.lanes + lane)
        plane = _entry(b, table, first + channel // x.view.channels)
        inside = b.let(tirx.max(plane, index(0)))
        yield b.let(x.at(n, inside, channel % x.view.channels)), plane >= 0


def _copy(
    b: KernelBuilder,
    x: Volume,
    y: View,
    source: tuple[Index, Index, Index],
    target: tuple[Index, Index],
) -> None:
    start, view = b.let(x.at(*source)), x.view
    with b.loop(y.height) as h, b.loop(y.width) as w:
        value = b.load(view.buffer, start + h * view.row + w * view.pixel)
        b.store(y.buffer, y.at(*target, h, w), value)


def _turn(
    b: KernelBuilder,
    x: Volume,
    y: View,
    channels: Sequence[tuple[Expr, Expr | None]],
    target: tuple[Index, Index],
) -> None:
    """Rows of pixels, one per channel, as vectors of channels, one per pixel."""
    lanes, pixels, source = b.lanes, y.height * y.width, x.view.buffer
    zero = b.splat(0.0)

    def read(at: Index, width: int) -> list[Expr]:
        rows: list[Expr] = []
        for place, exists in channels:
            value = b.load(source, place + at, width)
            if exists is not None:
                value = tirx.Select(exists, value, b.splat(0.0, width))
            rows.append(b.let(value))
        return rows

    if pixels < lanes:
        with b.loop(pixels) as p:
            row = read(p, 1) + [tirx.FloatImm("float32", 0.0)] * (lanes - len(channels))
            picks = [tirx.IntImm("int32", i) for i in range(lanes)]
            place = y.at(*target, p // y.width, p % y.width)
            b.store(y.buffer, place, tirx.Shuffle(row, picks))
        return
    with b.loop(-(-pixels // lanes)) as i:
        # The last square overlaps the one before.
        first = b.let(tirx.min(i * lanes, index(pixels - lanes)))
        rows = read(first, lanes) + [zero] * (lanes - len(channels))
        for j, value in enumerate(transpose(b, rows)):
            p = b.let(first + j)
            b.store(y.buffer, y.at(*target, p // y.width, p % y.width), value)
