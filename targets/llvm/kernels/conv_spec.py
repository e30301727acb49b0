"""What a convolution computes, apart from how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax, tirx


@dataclass(frozen=True)
class ConvSpec:
    """A 2-D convolution over logical (n, c, h, w).

    Attributes:
        batch: n; may be symbolic.
        in_channels, out_channels, groups: channels; each group maps its share onto its share.
        in_height, in_width, out_height, out_width: pixels.
        kernel, stride, dilation: (height, width).
        padding: zeros at top, left, bottom, right.
    """

    batch: Any
    in_channels: int
    out_channels: int
    groups: int
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]

    @staticmethod
    def of(call: relax.Call) -> ConvSpec | None:
        """The spec of an `nn.conv2d` call with static channels and pixels; None for others."""
        attrs = call.attrs
        if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != "OIHW":
            return None
        data, weight, out = call.args[0].ty, call.args[1].ty, call.ty
        shapes = [t.shape for t in (data, weight, out)]
        if not all(isinstance(s, relax.ShapeExpr) for s in shapes):
            return None
        x, w, y = (list(s.values) for s in shapes)
        if not all(isinstance(d, tirx.IntImm) for d in (*x[1:], *w, *y[1:])):
            return None
        if any(str(t.dtype.dtype) != "float32" for t in (data, weight, out)):
            return None
        padding = [int(p) for p in attrs.padding]
        return ConvSpec(
            int(x[0]) if isinstance(x[0], tirx.IntImm) else x[0],
            int(x[1]),
            int(w[0]),
            int(attrs.groups),
            int(x[2]),
            int(x[3]),
            int(y[2]),
            int(y[3]),
            (int(w[2]), int(w[3])),
            _pair(attrs.strides),
            _pair(attrs.dilation),
            (padding[0], padding[1], padding[2], padding[3]),
        )

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel is convolved on its own."""
        return self.groups == self.in_channels == self.out_channels

    @property
    def out_dims(self) -> tuple[Any, int, int, int]:
        """Logical dims of the result."""
        return self.batch, self.out_channels, self.out_height, self.out_width

    @property
    def in_dims(self) -> tuple[Any, int, int, int]:
        """Logical dims of the data."""
        return self.batch, self.in_channels, self.in_height, self.in_width

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        taps = self.kernel[0] * self.kernel[1]
        depth = self.in_channels // self.groups * taps
        return depth * self.out_channels * self.out_height * self.out_width


def _pair(values: Any) -> tuple[int, int]:
    return int(values[0]), int(values[1])
