"""Convolution whose groups are so small that several share a vector.

A vector of outputs holds whole groups, and their inputs lie in one vector, too, or in a part of
one. For every input of a group the lanes of a column are permuted so that each meets its own
group's input: ResNeXt's four channels per group take a quarter of the products that a banded matrix
would. A permuted column serves all taps of a kernel row that it falls under.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx import IntImm

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, even_tiles
from relaxc.targets.llvm.kernels.conv_direct import Placement
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View

# A kernel row is unrolled over a group's inputs and its taps: no more code than this many products.
_MOST_PRODUCTS = 64


def applies(spec: ConvSpec, lanes: int) -> bool:
    """Whether whole groups share a vector of outputs, and their inputs divide a vector."""
    depth, width = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    if width >= lanes or lanes % width or lanes % (lanes // width * depth):
        return False
    return depth * spec.kernel[1] <= _MOST_PRODUCTS


def pack_weights(weight: np.ndarray, lanes: int) -> np.ndarray:
    """[channels, depth, kh, kw] -> [channel block][kh][depth][kw][lanes]."""
    padded = np.pad(weight, ((0, -len(weight) % lanes), (0, 0), (0, 0), (0, 0)))
    blocks = padded.reshape(-1, lanes, *weight.shape[1:])
    return np.ascontiguousarray(blocks.transpose(0, 3, 2, 4, 1), np.float32)


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    x: View,
    weight: Buffer,
    y: View,
    operands: Operands,
    placement: Placement = Placement(),  # noqa: B008 (frozen)
) -> None:
    """Write the kernel."""
    largest = 10 if b.lanes == 16 else 4
    rows = spec.out_height
    with b.parallel(spec.batch * y.blocks * rows) as t:
        h, t = b.let(t % rows), b.let(t // rows)
        n, cb = b.let(t // y.blocks), b.let(t % y.blocks)
        y.zero_row_border(b, n, cb, placement.row(h))
        for left, columns, repeats in even_tiles(spec.out_width, largest):
            with b.loop(repeats) as r:
                w = b.let(r * columns + left)
                acc = _tile(b, spec, x, weight, n, cb, h, w, columns)
                for p, value in b.each_of(acc, rolled=operands.epilogue.is_heavy):
                    row, column = placement.row(h), placement.column(w + p)
                    result = operands.apply(b, value, n, cb, row, column)
                    b.store(y.buffer, y.at(n, cb, row, column), result)


def _tile(
    b: KernelBuilder,
    spec: ConvSpec,
    x: View,
    weight: Buffer,
    n: Index,
    cb: Index,
    h: Index,
    w: Index,
    columns: int,
) -> list[Expr]:
    """The values of `columns` pixels of row `h` from `w` on."""
    (kh, kw), (sh, sw), (dh, dw) = spec.kernel, spec.stride, spec.dilation
    depth, width = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    inputs = b.lanes // width * depth  # of one output block
    share = b.lanes // inputs
    acc = [b.register() for _ in range(columns)]
    for register in acc:
        register.set(b.splat(0.0))
    with b.loop(kh) as i:
        row, left = h * sh + i * dh - spec.padding[0], w * sw - spec.padding[1]
        at = b.let(x.at(n, cb // share, row, left) + cb % share * inputs)
        panel = b.let((cb * kh + i) * (depth * kw * b.lanes))
        for d in range(depth):
            order = [IntImm("int32", lane // width * depth + d) for lane in range(b.lanes)]
            taps = [b.let(b.load(weight, panel + (d * kw + j) * b.lanes)) for j in range(kw)]
            for column in sorted({p * sw + j * dw for p in range(columns) for j in range(kw)}):
                loaded = b.load(x.buffer, at + column * x.pixel, inputs)
                value = b.let(tirx.Shuffle([loaded] * share, order))
                for j, tap in enumerate(taps):
                    p, remainder = divmod(column - j * dw, sw)
                    if not remainder and 0 <= p < columns:
                        acc[p].set(acc[p].get() + value * tap)
    return [register.get() for register in acc]
