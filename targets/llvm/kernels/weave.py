"""Transposes with an axis of a few elements: the channels of images, real and imaginary parts.

Vectors of as many rows as there are channels are woven into as many vectors of pixels, or taken
apart; the last ones overlap their neighbours.
"""

from __future__ import annotations

import functools

from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.loops import grid
from relaxc.targets.llvm.kernels.streaming import fence, stream
from relaxc.targets.llvm.kernels.turn import Turn

# The most vectors that every other one is made of: the shuffles grow by the square.
_MOST = 8


def weave_lanes(lanes: int, size: int, turn: Turn, between: Index | None) -> int | None:
    """Pixels in a vector; None where no axis is short, or pixels do not lie side by side.

    Args:
        lanes: float32 elements per vector register.
        size: bytes of an element.
        turn: what to do.
        between: elements of the source from one index of `last` to the next.
    """
    count = 16 // size if size < 4 else 4 * lanes // size
    turned, last = simple(turn.turned), simple(turn.last)
    for short, long, pitch in ((turned, last, between), (last, turned, turn.pitch)):
        if isinstance(short, int) and isinstance(long, int) and 1 < short <= min(_MOST, count - 1):
            return count if long >= count and pitch == short else None
    return None


def emit_weave(
    b: KernelBuilder,
    turn: Turn,
    lanes: int,
    source: Buffer,
    target: Buffer,
    parallel: bool = True,
) -> None:
    """Write the loops, for as many pixels at a time as `weave_lanes` says."""
    turned, last = int(simple(turn.turned)), int(simple(turn.last))
    joins = last < turned
    channels, pixels = sorted((turned, last))
    outer = [simple(extent) for extent in turn.outer]
    work: Index = turned * last
    for extent in outer:
        work = work * extent

    def vectors(indices: list[Expr], _task: Expr) -> None:
        *at, step = indices
        first = b.let(tirx.min(step * lanes, index(pixels - lanes)))
        if joins:
            inputs = [turn.source(at, first, index(c)) for c in range(channels)]
            begin = b.let(turn.target(at, first, index(0)))
            outputs = [begin + k * lanes for k in range(channels)]
            picks = [divmod(i, channels) for i in range(channels * lanes)]
            order = [channel * lanes + pixel for pixel, channel in picks]
        else:
            begin = b.let(turn.source(at, index(0), first))
            inputs = [begin + k * lanes for k in range(channels)]
            outputs = [turn.target(at, index(c), first) for c in range(channels)]
            order = [pixel * channels + c for c in range(channels) for pixel in range(lanes)]
        values = [b.let(b.load(source, place, lanes)) for place in inputs]
        for k, place in enumerate(outputs):
            part = [tirx.IntImm("int32", i) for i in order[k * lanes : (k + 1) * lanes]]
            woven = tirx.Shuffle(values, part)
            if turn.streams:
                stream(b, target, place, woven, lanes)
            else:
                b.store(target, place, woven, lanes)

    finish = functools.partial(fence, b) if turn.streams else None
    grid(b, [*outer, -(-pixels // lanes)], work, vectors, parallel, finish=finish)
