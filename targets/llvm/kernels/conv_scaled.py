"""Pointwise convolution of data whose channels are multiplied by numbers: squeeze-excite.

The numbers belong to inputs as much as to the weights of these, which are far fewer than the pixels
of a map. So each task multiplies the weights of its outputs, in memory of its own, and convolves
rows of the map with them: nobody writes the product of map and numbers, and reads it again.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx

from relaxc.targets.llvm.kernels.arithmetic import Arithmetic
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.conv_direct import Placement, Writer
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.direct_tile import Tile, channel_groups
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    tile: Tile,
    x: View,
    factors: View,
    weight: View,
    y: View,
    operands: Operands,
    arithmetic: Arithmetic,
    tasks: int,
) -> None:
    """Write the kernel: of one image, by a kernel of 1x1.

    Args:
        b, spec, tile, x, weight, y, operands, arithmetic: as of `conv_direct.emit`.
        factors: what multiplies the channels of `x`, a map of one pixel.
        tasks: to make at least, if there are as many rows.
    """
    tile = replace(tile, rows_outer=True)  # nothing to fetch for a next group
    data = arithmetic.view(b, x)
    full, rest = channel_groups(spec, tile, b.lanes)
    last = full * tile.blocks
    for start, groups, count, pairs in (
        (0, full, tile.blocks, False),
        (last, 1, rest, tile.pairs),
    ):
        if not groups or not count:
            continue
        parts = min(spec.out_height, -(-tasks // groups))
        with b.parallel(groups * parts) as t:
            first = b.let(t // parts * tile.blocks + start)
            low = b.let(t % parts * spec.out_height // parts)
            rows = b.let((t % parts + 1) * spec.out_height // parts - low)
            panels = _multiplied(b, spec, factors, weight, first, count, arithmetic)
            own = replace(weight, buffer=panels, origin=first * -weight.row)
            writer = Writer(
                *(b, spec, tile, data, own, y, operands, arithmetic, Placement()), has_border=True
            )
            with b.loop(rows) as r:
                writer.row(0, first, count, b.let(low + r), pairs)


def _multiplied(
    b: KernelBuilder,
    spec: ConvSpec,
    factors: View,
    weight: View,
    first: Index,
    count: int,
    arithmetic: Arithmetic,
) -> Buffer:
    """The packed weights of `count` channel blocks from `first` on, times the factors."""
    group, panel = arithmetic.group, weight.row
    out = b.workspace(count * panel, weight.buffer.dtype, "panels")

    def factor(channel: Index) -> Expr:
        at = factors.lane(0, channel // b.lanes, channel % b.lanes, b.lanes, 0, 0)
        return b.let(b.broadcast(factors.buffer, at))

    with b.loop(panel // b.lanes) as step:
        numbers = [factor(step * group + i) for i in range(group)]
        for k in range(count):
            at = step * b.lanes + k * panel
            value = b.load(weight.buffer, first * panel + at + weight.origin)
            b.store(out, at, _product(b, value, numbers))
    return out


def _product(b: KernelBuilder, weights: Expr, factors: list[Expr]) -> Expr:
    """Float32 numbers, or pairs of bfloat16, times a factor of each."""
    if len(factors) == 1:
        return weights * factors[0]
    low = tirx.shift_left(weights, b.splat(16, dtype="int32"))
    high = tirx.bitwise_and(weights, b.splat(-(1 << 16), dtype="int32"))
    wide = [tirx.reinterpret(f"float32x{b.lanes}", bits) for bits in (low, high)]
    low, high = (
        tirx.Cast(f"int32x{b.lanes}", b.to_bfloat16(value * factor, b.lanes))
        for value, factor in zip(wide, factors)
    )
    return tirx.bitwise_or(low, tirx.shift_left(high, b.splat(16, dtype="int32")))
