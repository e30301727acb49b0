"""Matrix products: with transposes and a factor, with packed weights, quantized while running."""

from __future__ import annotations

import dataclasses

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.grouped_weights import dequantized_groups
from relaxc.frontend.operators.microsoft.nodes import refuse_attributes, scalar, standard_node
from relaxc.frontend.operators.quantize import matmul_integer
from relaxc.frontend.operators.stock import convert_with_tvm


def fused_matmul(ctx: NodeContext) -> relax.Expr:
    """FusedMatMul: alpha * A' B', of which each may be transposed."""
    a, b = (_transposed(ctx, ctx.input(i), side) for i, side in ((0, "A"), (1, "B")))
    result = relax.op.matmul(a, b)
    alpha = float(ctx.attrs.get("alpha", 1.0))
    if alpha == 1.0:
        return result
    return relax.op.multiply(ctx.bb.emit(result), scalar(alpha, a))


def _transposed(ctx: NodeContext, value: relax.Expr, side: str) -> relax.Expr:
    rank = len(dims(value))
    order = list(range(rank))
    if ctx.attrs.get(f"transBatch{side}", 0):
        # Rows come first, before the batch.
        order = [*order[1:-1], 0, rank - 1]
    if ctx.attrs.get(f"trans{side}", 0) and rank > 1:
        order[-2:] = reversed(order[-2:])
    if order == list(range(rank)):
        return value
    return ctx.bb.emit(relax.op.permute_dims(value, order))


def matmul_nbits(ctx: NodeContext) -> relax.Expr:
    """MatMulNBits of constant weights in 2, 4 or 8 bits; `accuracy_level` is a hint."""
    refuse_attributes(ctx, weight_prepacked=0)
    if ctx.has(4):
        raise ValueError("the input `g_idx` is not supported")
    bits, block = int(ctx.attrs.get("bits", 4)), int(ctx.attrs["block_size"])
    depth, columns = int(ctx.attrs["K"]), int(ctx.attrs["N"])
    if bits not in (2, 4, 8):
        raise ValueError(f"the attribute `bits` = {bits} is not supported")
    blocks = -(-depth // block)
    packed, scales = _array(ctx, 1, "B"), _array(ctx, 2, "scales").astype(np.float32)
    integers = _unpacked(packed.reshape(columns, -1), bits)[:, :depth]
    scales = scales.reshape(columns, blocks)
    zeros = np.full((columns, blocks), 1 << (bits - 1), np.uint8)
    if ctx.has(3):
        zeros = _array(ctx, 3, "zero_points")
        if zeros.dtype == np.uint8:
            zeros = _unpacked(zeros.reshape(columns, -1), bits)[:, :blocks]
        zeros = zeros.reshape(columns, blocks)
    x, kind = ctx.input(0), dtype(ctx.input(0))
    if kind != "float32":
        x = ctx.bb.emit(relax.op.astype(x, "float32"))
    if zeros.dtype == np.uint8 and depth == blocks * block:
        weight = dequantized_groups(ctx.bb, integers.T, scales.T, zeros.T, 0)
    else:
        spread = [
            np.repeat(v, block, axis=1)[:, :depth].astype(np.float32) for v in (zeros, scales)
        ]
        dense = (integers.astype(np.float32) - spread[0]) * spread[1]
        weight = relax.const(np.ascontiguousarray(dense.T), "float32")
    result = ctx.bb.emit(relax.op.matmul(x, weight))
    if kind != "float32":
        result = ctx.bb.emit(relax.op.astype(result, kind))
    return relax.op.add(result, ctx.input(5)) if ctx.has(5) else result


def _array(ctx: NodeContext, index: int, name: str) -> np.ndarray:
    value = ctx.input(index)
    if not isinstance(value, GenericConst):
        raise ValueError(f"the input `{name}` must be a constant")
    return np.asarray(value.value.numpy())


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """One row of integers for each row of bytes; the lowest bits come first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(packed.shape[0], -1)


def dynamic_quantize_matmul(ctx: NodeContext) -> relax.Expr:
    """DynamicQuantizeMatMul: A quantized to bytes by its own range, times quantized weights."""
    bb, a = ctx.bb, ctx.input(0)
    zero = scalar(0.0, a)
    high = bb.emit(relax.op.maximum(bb.emit(relax.op.max(a)), zero))
    low = bb.emit(relax.op.minimum(bb.emit(relax.op.min(a)), zero))
    span = bb.emit(relax.op.subtract(high, low))
    is_flat = bb.emit(relax.op.equal(span, zero))
    scale = bb.emit(relax.op.divide(span, scalar(255.0, a)))
    scale = bb.emit(relax.op.where(is_flat, scalar(1.0, a), scale))
    offset = bb.emit(relax.op.divide(bb.emit(relax.op.negative(low)), scale))
    point = bb.emit(relax.op.round(bb.emit(relax.op.clip(offset, 0, 255))))
    rounded = bb.emit(relax.op.round(bb.emit(relax.op.divide(a, scale))))
    bytes_ = bb.emit(relax.op.clip(bb.emit(relax.op.add(rounded, point)), 0, 255))
    quantized = [bb.emit(relax.op.astype(v, "uint8")) for v in (bytes_, point)]
    b_zero = ctx.input(3) if ctx.has(3) else None
    node = standard_node(ctx, "MatMulInteger", [quantized[0], ctx.input(1), quantized[1], b_zero])
    product = bb.emit(relax.op.astype(bb.emit(matmul_integer(node)), "float32"))
    factor = bb.emit(relax.op.multiply(scale, ctx.input(2)))
    result = relax.op.multiply(product, factor)
    return relax.op.add(bb.emit(result), ctx.input(4)) if ctx.has(4) else result


def nhwc_conv(ctx: NodeContext) -> relax.Expr:
    """NhwcConv: a convolution of channels-last data."""
    x = ctx.input(0)
    rank = len(dims(x))
    first = ctx.bb.emit(relax.op.permute_dims(x, [0, rank - 1, *range(1, rank - 1)]))
    inputs = [first, *ctx.inputs[1:]]
    conv = standard_node(ctx, "Conv", inputs)
    result = convert_with_tvm(dataclasses.replace(conv, attrs=dict(ctx.attrs)))
    return relax.op.permute_dims(ctx.bb.emit(result), [0, *range(2, rank), 1])


CONVERTERS: dict[str, Converter] = {
    "DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "FusedMatMul": fused_matmul,
    "MatMulNBits": matmul_nbits,
    "NhwcConv": nhwc_conv,
}
