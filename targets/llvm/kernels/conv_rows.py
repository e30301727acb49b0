"""Convolution with few outputs: vectors of columns, because outputs would not fill them.

A tile is a stretch of one row, of all outputs. It lies in registers; each vector of data that is
loaded is multiplied by one weight per output, which are the same for all columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, KernelBuilder, index
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.view import View

# Taps of a row, which are unrolled.
_MOST_TAPS = 15
# Fewer taps do not pay for data in rows, as which they may have to be copied.
_FEWEST_TAPS = 5
# Vectors that share a weight.
_MOST_VECTORS = 8


def applies(spec: ConvSpec, lanes: int) -> bool:
    """Whether columns fill vectors better than outputs, and neighbours lie together."""
    taps = spec.kernel[0] * spec.kernel[1]
    few = spec.groups == 1 and 4 * spec.out_channels <= lanes and spec.stride[1] == 1
    return few and taps >= _FEWEST_TAPS and spec.kernel[1] <= _MOST_TAPS and spec.out_width >= lanes


def pack_weights(weight: np.ndarray) -> np.ndarray:
    """[out, in, kh, kw] -> [in, kh, kw, out]."""
    return np.ascontiguousarray(weight.transpose(1, 2, 3, 0), np.float32)


def choose_vectors(spec: ConvSpec, lanes: int, registers: int) -> int:
    """Vectors of a tile, such that tiles cover a row with as little overlap as possible."""
    most = min(_MOST_VECTORS, (registers - 4) // spec.out_channels, spec.out_width // lanes)
    return min(range(max(most, 1), 0, -1), key=lambda v: -(-spec.out_width // (v * lanes)) * v)


def emit(
    b: KernelBuilder,
    spec: ConvSpec,
    vectors: int,
    x: View,
    weight: Buffer,
    y: View,
    finish: Callable[[Expr, int], Expr],
) -> None:
    """Write the kernel.

    Args:
        b: the builder.
        spec: of the convolution; `applies` to it.
        vectors: of a tile.
        x, y: plain; x with the padding as its border.
        weight: from `pack_weights`.
        finish: the epilogue, on a vector of one output.
    """
    (kh, kw), (dh, dw), outs = spec.kernel, spec.dilation, spec.out_channels
    step = vectors * b.lanes
    tiles = -(-spec.out_width // step)
    with b.parallel(spec.batch * spec.out_height * tiles) as t:
        # The last tile of a row overlaps the one before.
        first = b.let(tirx.min(t % tiles * step, index(spec.out_width - step)))
        n, h = b.let(t // (tiles * spec.out_height)), b.let(t // tiles % spec.out_height)
        start = b.let(x.at(n, 0, h * spec.stride[0] - spec.padding[0], first - spec.padding[1]))
        sums = [[b.register() for _ in range(vectors)] for _ in range(outs)]
        for register in (r for row in sums for r in row):
            register.set(b.splat(0.0))
        with b.loop(spec.in_channels) as c, b.loop(kh) as i:
            at = b.let(start + c * x.plane + i * (dh * x.row))
            factors = b.let((c * kh + i) * (kw * outs))
            for j in range(kw):
                weights = [
                    b.let(b.broadcast(weight, factors + (j * outs + o))) for o in range(outs)
                ]
                for v in range(vectors):
                    value = b.let(b.load(x.buffer, at + (j * dw + v * b.lanes)))
                    for o, factor in enumerate(weights):
                        sums[o][v].set(sums[o][v].get() + value * factor)
        for o, row in enumerate(sums):
            for v, register in enumerate(row):
                result = finish(b.let(register.get()), o)
                b.store(y.buffer, y.at(n, o, h, first + v * b.lanes), result)
