"""QLinear operators: bytes to numbers, the operator, and back to bytes."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable

import numpy as np
from tvm import relax

from relaxc.frontend.operators.base import Converter, NodeContext, constant, dims, dtype
from relaxc.frontend.operators.broadcast import with_equal_dimensions
from relaxc.frontend.operators.microsoft.nodes import standard_node
from relaxc.frontend.operators.quantize import dequantize_linear, matmul_integer, quantize_linear
from relaxc.frontend.operators.stock import convert_with_tvm


def _number(ctx: NodeContext, index: int) -> relax.Expr:
    """The tensor at `index`, followed by its scale and zero point, as float32."""
    zero = ctx.input(index + 2) if ctx.has(index + 2) else None
    data, scale = ctx.input(index), ctx.input(index + 1)
    node = standard_node(ctx, "DequantizeLinear", [data, scale, zero])
    return ctx.bb.emit(dequantize_linear(node))


def _byte(ctx: NodeContext, value: relax.Expr, index: int, kind: str) -> relax.Expr:
    """A result, by the scale and zero point at `index`."""
    zero = ctx.input(index + 1) if ctx.has(index + 1) else constant(np.zeros((), kind))
    node = standard_node(ctx, "QuantizeLinear", [value, ctx.input(index), zero])
    return quantize_linear(node)


def _binary(op_type: str, func: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    def convert(ctx: NodeContext) -> relax.Expr:
        """Elementwise, in single precision."""
        numbers: list[relax.Expr | None] = [_number(ctx, 0), _number(ctx, 3)]
        node = with_equal_dimensions(standard_node(ctx, op_type, numbers))
        result = ctx.bb.emit(func(node.input(0), node.input(1)))
        return _byte(ctx, result, 6, dtype(ctx.input(0)))

    return convert


def _unary(func: Callable[[NodeContext, relax.Expr], relax.Expr]) -> Converter:
    def convert(ctx: NodeContext) -> relax.Expr:
        """In single precision."""
        result = ctx.bb.emit(func(ctx, _number(ctx, 0)))
        return _byte(ctx, result, 3, dtype(ctx.input(0)))

    return convert


def _sigmoid(_ctx: NodeContext, x: relax.Expr) -> relax.Expr:
    return relax.op.sigmoid(x)


def _leaky_relu(ctx: NodeContext, x: relax.Expr) -> relax.Expr:
    return relax.op.nn.leakyrelu(x, float(ctx.attrs.get("alpha", 0.01)))


def _softmax(ctx: NodeContext, x: relax.Expr) -> relax.Expr:
    shape = dims(x)
    axis = int(ctx.attrs.get("axis", -1)) % len(shape)
    if int(ctx.attrs.get("opset", 13)) >= 13 or axis == len(shape) - 1:
        return relax.op.nn.softmax(x, axis)
    # Before opset 13, all axes from `axis` on count as one.
    rows, row = (functools.reduce(operator.mul, part, 1) for part in (shape[:axis], shape[axis:]))
    flat = ctx.bb.emit(relax.op.reshape(x, relax.ShapeExpr([rows, row])))
    return relax.op.reshape(ctx.bb.emit(relax.op.nn.softmax(flat, 1)), relax.ShapeExpr(shape))


def _channels_first(ctx: NodeContext, x: relax.Expr) -> relax.Expr:
    rank = len(dims(x))
    if not ctx.attrs.get("channels_last", 0):
        return x
    return ctx.bb.emit(relax.op.permute_dims(x, [0, rank - 1, *range(1, rank - 1)]))


def _restored(ctx: NodeContext, x: relax.Expr) -> relax.Expr:
    if not ctx.attrs.get("channels_last", 0):
        return x
    return relax.op.permute_dims(ctx.bb.normalize(x), [0, *range(2, len(dims(ctx.input(0)))), 1])


def _average_pool(ctx: NodeContext, x: relax.Expr) -> relax.Expr:
    node = standard_node(ctx, "AveragePool", [_channels_first(ctx, x)])
    attrs = {k: v for k, v in ctx.attrs.items() if k != "channels_last"}
    result = ctx.bb.emit(convert_with_tvm(dataclasses.replace(node, attrs=attrs)))
    return _restored(ctx, result)


def _global_average_pool(ctx: NodeContext, x: relax.Expr) -> relax.Expr:
    x = _channels_first(ctx, x)
    return _restored(ctx, ctx.bb.emit(relax.op.mean(x, list(range(2, len(dims(x)))), True)))


def concat(ctx: NodeContext) -> relax.Expr:
    """QLinearConcat: the result's scale and zero point come first."""
    parts = [_number(ctx, i) for i in range(2, len(ctx.inputs), 3)]
    axis = int(ctx.attrs["axis"])
    joined = ctx.bb.emit(relax.op.concat(parts, axis % len(dims(parts[0]))))
    return _byte(ctx, joined, 0, dtype(ctx.input(2)))


def gemm(ctx: NodeContext) -> relax.Expr:
    """QGemm: exact int32 products; the result is float where no scale for it is given."""
    bb = ctx.bb
    a, b = ctx.input(0), ctx.input(3)
    if ctx.attrs.get("transA", 0):
        a = bb.emit(relax.op.permute_dims(a, [1, 0]))
    if ctx.attrs.get("transB", 0):
        b = bb.emit(relax.op.permute_dims(b, [1, 0]))
    node = standard_node(ctx, "MatMulInteger", [a, b, ctx.input(2), ctx.input(5)])
    total = bb.emit(matmul_integer(node))
    if ctx.has(6):
        total = bb.emit(relax.op.add(total, ctx.input(6)))
    factor = bb.emit(relax.op.multiply(ctx.input(1), ctx.input(4)))
    alpha = float(ctx.attrs.get("alpha", 1.0))
    if alpha != 1.0:
        factor = bb.emit(relax.op.multiply(factor, relax.const(alpha, "float32")))
    result = relax.op.multiply(bb.emit(relax.op.astype(total, "float32")), factor)
    if not ctx.has(7):
        return result
    return _byte(ctx, bb.emit(result), 7, dtype(ctx.input(0)))


CONVERTERS: dict[str, Converter] = {
    "QGemm": gemm,
    "QLinearAdd": _binary("Add", relax.op.add),
    "QLinearAveragePool": _unary(_average_pool),
    "QLinearConcat": concat,
    "QLinearGlobalAveragePool": _unary(_global_average_pool),
    "QLinearLeakyRelu": _unary(_leaky_relu),
    "QLinearMul": _binary("Mul", relax.op.multiply),
    "QLinearSigmoid": _unary(_sigmoid),
    "QLinearSoftmax": _unary(_softmax),
}
