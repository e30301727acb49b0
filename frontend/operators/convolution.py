"""Convolutions that find their own pads, those of integers, and transposed ones of a given size."""

from __future__ import annotations

import dataclasses
from typing import Any

from tvm import relax, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, dims
from relaxc.frontend.operators.quantize import dequantize_linear, quantize_linear
from relaxc.frontend.operators.stock import convert_with_tvm


def conv(ctx: NodeContext) -> relax.Expr:
    """Conv; pads that follow from known sizes are a part of the convolution, no tensor of zeros."""
    mode, sizes = ctx.text("auto_pad", "NOTSET"), dims(ctx.input(0))[2:]
    kernel = dims(ctx.input(1))[2:]
    if not mode.startswith("SAME") or not all(
        isinstance(n, tirx.IntImm) and int(n) > 0 for n in (*sizes, *kernel)
    ):
        return convert_with_tvm(ctx)
    strides = [int(s) for s in ctx.attrs.get("strides") or [1] * len(kernel)]
    dilations = [int(d) for d in ctx.attrs.get("dilations") or [1] * len(kernel)]
    small, large = [], []
    for size, taps, stride, dilation in zip(map(int, sizes), kernel, strides, dilations):
        reach = (-(-size // stride) - 1) * stride + (int(taps) - 1) * dilation + 1
        total = max(0, reach - size)
        small.append(total // 2)
        large.append(total - total // 2)
    pads = (*small, *large) if mode == "SAME_UPPER" else (*large, *small)
    attrs = {k: v for k, v in ctx.attrs.items() if k != "auto_pad"} | {"pads": pads}
    return convert_with_tvm(dataclasses.replace(ctx, attrs=attrs))


def conv_transpose(ctx: NodeContext) -> relax.Expr:
    """ConvTranspose; `output_shape` is turned into pads."""
    if "output_shape" not in ctx.attrs:
        return convert_with_tvm(ctx)
    kernel = [_known(d) for d in dims(ctx.input(1))[2:]]
    rank = len(kernel)
    size = [_known(d) for d in dims(ctx.input(0))[2:]]
    wanted = [int(n) for n in ctx.attrs["output_shape"]][-rank:]
    strides = [int(s) for s in ctx.attrs.get("strides") or [1] * rank]
    dilations = [int(d) for d in ctx.attrs.get("dilations") or [1] * rank]
    extra = [int(p) for p in ctx.attrs.get("output_padding") or [0] * rank]
    is_upper = ctx.text("auto_pad", "NOTSET") == "SAME_UPPER"
    begin, end = [], []
    for d in range(rank):
        total = strides[d] * (size[d] - 1) + extra[d] + (kernel[d] - 1) * dilations[d] + 1
        total -= wanted[d]
        if total < 0:  # what is missing is added at the end
            extra[d] -= total
            total = 0
        half = total // 2
        begin.append(half if is_upper else total - half)
        end.append(total - half if is_upper else half)
    attrs = {k: v for k, v in ctx.attrs.items() if k not in ("output_shape", "auto_pad")}
    attrs |= {"pads": (*begin, *end), "output_padding": tuple(extra)}
    return convert_with_tvm(dataclasses.replace(ctx, attrs=attrs))


def _known(dim: Any) -> int:
    if not isinstance(dim, tirx.IntImm):
        raise ValueError("`output_shape` of a symbolic size is not supported; give `pads`")
    return int(dim)


def conv_integer(ctx: NodeContext) -> relax.Expr:
    """ConvInteger: exact int32 sums."""
    x, weight = (_centered(ctx, i, i + 2) for i in (0, 1))
    return convert_with_tvm(_as_conv(ctx, [x, weight]))


def _centered(ctx: NodeContext, index: int, zero: int) -> relax.Expr:
    value = ctx.bb.emit(relax.op.astype(ctx.input(index), "int32"))
    if not ctx.has(zero):
        return value
    offset = ctx.bb.emit(relax.op.astype(ctx.input(zero), "int32"))
    if index == 1 and len(dims(offset)) == 1:  # one per output channel
        ones = [1] * (len(dims(value)) - 1)
        offset = ctx.bb.emit(relax.op.reshape(offset, [-1, *ones]))
    return ctx.bb.emit(relax.op.subtract(value, offset))


def _as_conv(ctx: NodeContext, inputs: list[relax.Expr | None]) -> NodeContext:
    node = type(ctx.node)()
    node.CopyFrom(ctx.node)
    node.op_type = "Conv"
    attrs = dict(ctx.attrs)
    attrs.setdefault("kernel_shape", tuple(int(d) for d in dims(inputs[1])[2:]))
    return dataclasses.replace(ctx, node=node, inputs=inputs, attrs=attrs)


def qlinear_conv(ctx: NodeContext) -> relax.Expr:
    """QLinearConv: as a convolution between dequantize and quantize, which passes make integer."""

    def dequantized(value: int, scale: int, zero: int, axis: int) -> relax.Expr:
        picked = (value, scale, zero)
        inner = dataclasses.replace(
            ctx,
            attrs={"axis": axis},
            inputs=[ctx.inputs[i] for i in picked],
            shapes=[None] * 3,
            types=[ctx.types[i] for i in picked],
            output_types=[1],
        )
        return ctx.bb.emit(dequantize_linear(inner))

    x, weight = dequantized(0, 1, 2, 1), dequantized(3, 4, 5, 0)
    result = ctx.bb.emit(convert_with_tvm(_as_conv(ctx, [x, weight])))
    if ctx.has(8):
        bias = ctx.bb.emit(relax.op.astype(ctx.input(8), "float32"))
        factor = ctx.bb.emit(relax.op.multiply(ctx.input(1), ctx.input(4)))
        bias = ctx.bb.emit(relax.op.multiply(bias, factor))
        shape = [1, -1, *[1] * (len(dims(x)) - 2)]
        result = ctx.bb.emit(relax.op.add(result, relax.op.reshape(bias, shape)))
    target = dataclasses.replace(
        ctx,
        attrs={"axis": 1},
        inputs=[result, ctx.inputs[6], ctx.inputs[7]],
        shapes=[None] * 3,
        types=[1, ctx.types[6], ctx.types[7]],
        output_types=[ctx.types[7]],
    )
    return quantize_linear(target)


CONVERTERS: dict[str, Converter] = {
    "ConvInteger": conv_integer,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "QLinearConv": qlinear_conv,
}
