"""Transposed convolution as direct convolutions, one per phase of the stride.

Output pixels whose position has the same remainder modulo the stride use the same taps and form
an ordinary stride-1 convolution of the data. So each of the sh * sw phases runs the direct kernel
on its share of the taps, and stores every sh-th row and sw-th column: no multiplication by the
zeros that upsampling would insert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from relaxc.layout import Border
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.domain import as_int, simple


@dataclass(frozen=True)
class TransposeSpec:
    """A transposed 2-D convolution over logical (n, c, h, w).

    Attributes:
        batch: n; may be symbolic.
        in_channels, out_channels, groups: channels; each group maps its share onto its share.
        in_size, out_size: (height, width).
        kernel, stride, dilation: (height, width).
        padding: what is cut off at top and left.
    """

    batch: Any
    in_channels: int
    out_channels: int
    groups: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]

    @staticmethod
    def of(call: relax.Call) -> TransposeSpec | None:
        """The spec of a static `nn.conv2d_transpose` call; None for others."""
        attrs = call.attrs
        if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != "IOHW":
            return None
        types = (call.args[0].ty, call.args[1].ty, call.ty)
        if any(str(t.dtype.dtype) != "float32" for t in types):
            return None
        if not all(isinstance(t.shape, relax.ShapeExpr) for t in types):
            return None
        x, w, y = ([simple(d) for d in t.shape.values] for t in types)
        if any(as_int(d) is None for d in (*x[1:], *w, *y[1:])):
            return None
        return TransposeSpec(
            x[0],
            x[1],
            y[1],
            int(attrs.groups),
            (x[2], x[3]),
            (y[2], y[3]),
            (w[2], w[3]),
            (int(attrs.strides[0]), int(attrs.strides[1])),
            (int(attrs.dilation[0]), int(attrs.dilation[1])),
            (int(attrs.padding[0]), int(attrs.padding[1])),
        )

    def phases(self) -> list[Phase]:
        """One convolution per remainder of the output position."""
        rows = [self._axis(0, r) for r in range(min(self.stride[0], self.out_size[0]))]
        columns = [self._axis(1, c) for c in range(min(self.stride[1], self.out_size[1]))]
        return [
            Phase((i, j), row.taps, column.taps, self._convolution(row, column))
            for i, row in enumerate(rows)
            for j, column in enumerate(columns)
        ]

    def border(self) -> Border:
        """The border that the data needs for all phases."""
        specs = [phase.spec for phase in self.phases()]
        top = max(s.padding[0] for s in specs)
        left = max(s.padding[1] for s in specs)
        bottom = max(s.padding[2] for s in specs)
        right = max(s.padding[3] for s in specs)
        return max(top, 0), max(left, 0), max(bottom, 0), max(right, 0)

    def _axis(self, axis: int, remainder: int) -> _Axis:
        """Taps that reach outputs of this remainder, ordered by the input that they read."""
        stride, dilation, pad = self.stride[axis], self.dilation[axis], self.padding[axis]
        reached = [
            ((remainder + pad - k * dilation) // stride, k)
            for k in range(self.kernel[axis])
            if (remainder + pad - k * dilation) % stride == 0
        ]
        reached.sort()
        count = -(-(self.out_size[axis] - remainder) // stride)
        if not reached:
            return _Axis((), 0, 0, count, 1)
        offsets = [offset for offset, _ in reached]
        step = offsets[1] - offsets[0] if len(offsets) > 1 else 1
        before = -offsets[0]
        after = count - 1 + offsets[-1] - (self.in_size[axis] - 1)
        return _Axis(tuple(k for _, k in reached), before, after, count, step)

    def _convolution(self, row: _Axis, column: _Axis) -> ConvSpec:
        return ConvSpec(
            self.batch,
            self.in_channels,
            self.out_channels,
            self.groups,
            *self.in_size,
            row.count,
            column.count,
            (max(len(row.taps), 1), max(len(column.taps), 1)),
            (1, 1),
            (row.step, column.step),
            (row.before, column.before, row.after, column.after),
        )


@dataclass(frozen=True)
class _Axis:
    """One phase along one axis: taps, padding before and after, outputs, distance of inputs."""

    taps: tuple[int, ...]
    before: int
    after: int
    count: int
    step: int


@dataclass(frozen=True)
class Phase:
    """One phase of a transposed convolution.

    Attributes:
        start: first output row and column.
        rows, columns: which taps of the kernel it uses, in the order of `spec`.
        spec: the stride-1 convolution that computes its outputs.
    """

    start: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    spec: ConvSpec

    def weights(self, weight: np.ndarray) -> np.ndarray:
        """This phase's share of [in, out / groups, kh, kw], as [out, in / groups, kh', kw']."""
        depth, width = weight.shape[0] // self.spec.groups, weight.shape[1]
        if not self.rows or not self.columns:
            shape = (self.spec.out_channels, depth, *self.spec.kernel)
            return np.zeros(shape, weight.dtype)
        taps = weight[:, :, list(self.rows)][:, :, :, list(self.columns)]
        split = taps.reshape(self.spec.groups, depth, width, *taps.shape[2:])
        split = split.transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(split.reshape(-1, depth, *taps.shape[2:]))
