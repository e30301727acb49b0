"""DFT, STFT and mel filters.

A transform of known length is a product with a constant matrix, which the target's kernels
compute; of other lengths, a loop nest that computes its sines as it goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto
from tvm import relax, te, tirx

from relaxc.frontend.element_types import carrier
from relaxc.frontend.operators.base import Converter, NodeContext, constant, dims, dtype
from relaxc.frontend.operators.vectors import as_vector, axis_parts, runtime_shape, wrapped
from relaxc.frontend.shape_values import Element

# A larger matrix would cost more to read than to compute.
_MAX_MATRIX = 1 << 24
# So small a product costs nothing in double precision, where what cancels is 0.
_SMALL_MATRIX = 1 << 12


@dataclass(frozen=True)
class Transform:
    """A discrete Fourier transform.

    Attributes:
        length: of the transform; the signal is cut or padded with zeros.
        bins: results kept.
        inverse: from frequencies to a signal.
        is_real: an inverse of the lower half of a spectrum, whose signal is real.
    """

    length: Any
    bins: Any
    inverse: bool
    is_real: bool

    def matrix(self, size: int, parts: int) -> np.ndarray:
        """(size * parts, bins * results): what a signal of `size` elements is multiplied with."""
        length, bins = int(self.length), int(self.bins)
        used = min(size, length // 2 + 1 if self.is_real else length)
        j, k = np.arange(used)[:, None], np.arange(bins)[None, :]
        angle = 2 * np.pi * (j * k % length) / length
        cos, sin = np.cos(angle), np.sin(angle) * (1 if self.inverse else -1)
        if self.is_real:
            weight = np.where((j == 0) | (2 * j == length), 1.0, 2.0)
            full = np.stack([cos * weight, -sin * weight], 1)[:, :parts, :, None]
        else:
            full = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)[:, :parts]
        if self.inverse:
            full = full / length
        padded = np.zeros((size, *full.shape[1:]))
        padded[:used] = full
        return padded.reshape(size * parts, -1)

    def loops(self, x: te.Tensor, length: Any, bins: Any) -> te.Tensor:
        """The same for sizes that only the run knows; x is (outer, size, inner, parts).

        In double precision, where what cancels is 0.
        """
        outer, size, inner, parts = x.shape
        kind = "float64"
        used = tirx.min(size, tirx.floordiv(length, 2) + 1 if self.is_real else length)
        j = te.reduce_axis((0, used), name="j")
        sign = 1.0 if self.inverse else -1.0

        def element(o: Any, k: Any, i: Any, part: Any) -> Any:
            turn = tirx.floormod(j.var * k, tirx.max(length, 1)).astype("float64")
            angle = turn * tirx.const(2 * math.pi, "float64") / length.astype("float64")
            cos, sin = tirx.cos(angle), tirx.sin(angle) * tirx.const(sign, kind)
            real = x(o, j.var, i, 0).astype(kind)
            imaginary = x(o, j.var, i, 1).astype(kind) if int(parts) > 1 else tirx.const(0.0, kind)
            value = real * cos - imaginary * sin
            if self.is_real:
                is_single = tirx.any(j.var == 0, j.var * 2 == length)
                value = value * tirx.Select(is_single, tirx.const(1, kind), tirx.const(2, kind))
            else:
                value = tirx.Select(part == 0, value, imaginary * cos + real * sin)
            if self.inverse:
                value = value / length.astype(kind)
            return te.sum(value, axis=j)

        results = 1 if self.is_real else 2
        wide = te.compute((outer, bins, inner, results), element, name="dft")
        return te.compute(wide.shape, lambda *i: wide(*i).astype(str(x.dtype)), name="narrow")

    def apply(self, ctx: NodeContext, x: relax.Expr) -> relax.Expr:
        """Transform axis 1 of (outer, size, inner, parts)."""
        outer, size, inner, parts = dims(x)
        known = all(isinstance(d, tirx.IntImm) for d in (size, parts, self.length, self.bins))
        count = int(size) * int(parts) * int(self.bins) * 2 if known else _MAX_MATRIX + 1
        if count > _MAX_MATRIX:
            return ctx.emit_te(self.loops, x, self.length, self.bins, name="dft")
        kind = dtype(x)
        wide = "float64" if count <= _SMALL_MATRIX else kind
        matrix = constant(self.matrix(int(size), int(parts)).astype(wide))

        def emit(value: relax.Expr) -> relax.Expr:
            return ctx.bb.emit(value)

        results = 1 if self.is_real else 2
        rows = emit(relax.op.permute_dims(x, [0, 2, 1, 3]))
        rows = emit(relax.op.reshape(rows, relax.ShapeExpr([outer, inner, size * parts])))
        done = emit(relax.op.matmul(emit(relax.op.astype(rows, wide)), matrix))
        done = emit(relax.op.astype(done, kind))
        shape = relax.ShapeExpr([outer, inner, self.bins, tirx.IntImm("int64", results)])
        return emit(relax.op.permute_dims(emit(relax.op.reshape(done, shape)), [0, 2, 1, 3]))


def dft(ctx: NodeContext) -> relax.Expr:
    """DFT along an axis that may be computed by the model, of any length."""
    x = ctx.input(0)
    shape = dims(x)
    rank = len(shape)
    inverse, onesided = bool(ctx.attrs.get("inverse", 0)), bool(ctx.attrs.get("onesided", 0))
    axis: Any
    if ctx.opset < 20:
        axis = int(ctx.attrs.get("axis", 1)) % rank
    elif not ctx.has(2):
        axis = rank - 2
    else:
        known = ctx.static(2)
        axis = as_vector(ctx, 2) if known is None else known[0] % rank
    outer, size, inner = axis_parts(ctx, axis, shape[:-1], rank)
    length: Element = size
    if ctx.has(1):
        (length,) = ctx.sizes(1)
    elif inverse and onesided:
        length = (size - 1) * 2
    bins = tirx.floordiv(length, 2) + 1 if onesided and not inverse else length
    transform = Transform(length, bins, inverse, inverse and onesided)
    flat = ctx.bb.emit(relax.op.reshape(x, relax.ShapeExpr([outer, size, inner, shape[-1]])))
    done = transform.apply(ctx, flat)
    results = tirx.IntImm("int64", 1 if transform.is_real else 2)
    if isinstance(axis, int):
        new = [bins if i == axis else d for i, d in enumerate(shape[:-1])]
    else:

        def place(at: Any, old: list[Any], bins: Any) -> list[Any]:
            return [tirx.Select(wrapped(at[0], rank) == i, bins, d) for i, d in enumerate(old)]

        new = runtime_shape(ctx, place, axis, shape[:-1], bins)
    return relax.op.reshape(done, relax.ShapeExpr([*new, results]))


def stft(ctx: NodeContext) -> relax.Expr:
    """STFT: DFTs of windows of a signal."""
    signal = ctx.input(0)
    if len(dims(signal)) == 2:
        signal = ctx.bb.emit(relax.op.expand_dims(signal, [2]))
    batch, total, parts = dims(signal)
    (step,) = ctx.sizes(1)
    if ctx.has(2):
        (length,) = dims(ctx.input(2))
    elif ctx.has(3):
        (length,) = ctx.sizes(3)
    else:
        raise ValueError("neither a window nor a frame length is given")
    window = [ctx.input(2)] if ctx.has(2) else []
    count = tirx.floordiv(total - length, step) + 1
    if not all(isinstance(v, tirx.IntImm) for v in (total, length, step)):
        # A symbol of its own, which functions can be told apart from the sizes that make it.
        (count,) = runtime_shape(
            ctx,
            lambda n, size, by: [tirx.floordiv(n - size, by) + 1],
            *(total, length, step),
            name="frame_count",
        )

    def frames(x: te.Tensor, step: Any, length: Any, count: Any, *window: te.Tensor) -> te.Tensor:
        def element(n: Any, j: Any, i: Any, part: Any) -> Any:
            value = x(tirx.floordiv(n, count), tirx.floormod(n, count) * step + j, part)
            return value * window[0](j) if window else value

        shape = (x.shape[0] * count, length, 1, x.shape[2])
        return te.compute(shape, element, name="frames")

    cut = ctx.emit_te(frames, signal, step, length, count, *window, name="frames")
    onesided = bool(ctx.attrs.get("onesided", 1))
    bins = tirx.floordiv(length, 2) + 1 if onesided else length
    done = Transform(length, bins, False, False).apply(ctx, cut)
    return relax.op.reshape(done, relax.ShapeExpr([batch, count, bins, tirx.IntImm("int64", 2)]))


def mel_weight_matrix(ctx: NodeContext) -> relax.Expr:
    """MelWeightMatrix of numbers that only the run knows; constant ones are folded."""
    (bands,), (length,) = ctx.sizes(0), ctx.sizes(1)
    kind = carrier(int(ctx.attrs.get("output_datatype", TensorProto.FLOAT)))
    numbers = [ctx.bb.emit(relax.op.reshape(ctx.input(i), [1])) for i in (2, 3, 4)]

    def compute(rate: te.Tensor, low: te.Tensor, high: te.Tensor, n: Any, size: Any) -> te.Tensor:
        def const(value: float) -> Any:
            return tirx.const(value, "float64")

        def mel(hertz: Any) -> Any:
            return const(2595 / math.log(10)) * tirx.log(const(1) + hertz / const(700))

        bottom, top = (mel(t(0).astype("float64")) for t in (low, high))
        step = (top - bottom) / (n + 2).astype("float64")

        def edge(i: Any) -> Any:
            pitch = i.astype("float64") * step + bottom
            hertz = const(700) * (tirx.exp(pitch * const(math.log(10) / 2595)) - const(1))
            scaled = (size + 1).astype("float64") * hertz / rate(0).astype("float64")
            return tirx.floor(scaled).astype("int64")

        def element(j: Any, i: Any) -> Any:
            left, center, right = (edge(i + k) for k in range(3))
            one, zero = const(1), const(0)
            rise = (j - left).astype("float64") / tirx.max(center - left, 1).astype("float64")
            fall = (right - j).astype("float64") / tirx.max(right - center, 1).astype("float64")
            below = tirx.Select(center == left, tirx.Select(j == center, one, zero), rise)
            inside = tirx.all(j >= left, j <= center)
            value = tirx.Select(inside, below, zero)
            value = tirx.Select(tirx.all(j >= center, j < right), fall, value)
            return value.astype(kind)

        return te.compute((tirx.floordiv(size, 2) + 1, n), element, name="mel")

    return ctx.emit_te(compute, *numbers, bands, length, name="mel")


CONVERTERS: dict[str, Converter] = {
    "DFT": dft,
    "MelWeightMatrix": mel_weight_matrix,
    "STFT": stft,
}
