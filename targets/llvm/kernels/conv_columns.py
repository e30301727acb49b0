"""A network's first convolution in bfloat16: pairs of neighbouring columns instead of channels.

Three channels make no pairs, and lie in planes of their own. But with an even stride, the columns
that a row of taps reads start at an even one: as pairs they are a convolution of half the width and
stride, with half the taps (an odd last one gets a zero beside it) and two channels for each:

    (c, h, w), kernel (kh, kw), stride (sh, sw)  ->  (2 c, h, w / 2), (kh, kw / 2), (sh, sw / 2)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from relaxc.layout import Border
from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.view import View


def applies(spec: ConvSpec) -> bool:
    """Whether a convolution of plain data can be computed like this."""
    few = spec.groups == 1 and spec.in_channels <= 4
    return few and spec.stride[1] % 2 == 0 and spec.dilation[1] == 1 and spec.kernel[1] > 1


def border(spec: ConvSpec) -> Border:
    """The border that the data must have: an even number of columns, which the last taps end in."""
    top, left, bottom, right = spec.padding
    last = (spec.out_width - 1) * spec.stride[1] + 2 * _pairs(spec)
    columns = max(left + spec.in_width + right, last)
    return top, left, bottom, columns + columns % 2 - left - spec.in_width


def paired_spec(spec: ConvSpec) -> ConvSpec:
    """The convolution over pairs; its data begin with the border's first column."""
    top, _, bottom, _ = spec.padding
    return replace(
        spec,
        in_channels=2 * spec.in_channels,
        in_width=sum(border(spec)[1::2], spec.in_width) // 2,
        kernel=(spec.kernel[0], _pairs(spec)),
        stride=(spec.stride[0], spec.stride[1] // 2),
        padding=(top, 0, bottom, 0),
    )


def paired_weights(weight: np.ndarray) -> np.ndarray:
    """[out, in, kh, kw] -> [out, 2 in, kh, kw / 2]."""
    out, depth, kh, kw = weight.shape
    even = np.pad(weight, ((0, 0), (0, 0), (0, 0), (0, kw % 2)))
    pairs = even.reshape(out, depth, kh, -1, 2).transpose(0, 1, 4, 2, 3)
    return np.ascontiguousarray(pairs.reshape(out, 2 * depth, kh, -1))


def paired_view(b: KernelBuilder, x: View) -> View:
    """Plain data of bfloat16, with the border above, as pairs of columns."""
    top, _, bottom, _ = x.layout.border
    row = x.row // 2
    plane = row * (x.height + top + bottom)
    return replace(
        x,
        buffer=b.grouped(x.buffer, 2),
        image=x.image // 2,
        plane=plane,
        row=row,
        pixel=1,
        origin=top * row,
    )


def _pairs(spec: ConvSpec) -> int:
    return -(-spec.kernel[1] // 2)
