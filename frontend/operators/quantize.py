"""QuantizeLinear and its relatives: per tensor, per axis or in blocks; integers, float8, float4."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto
from tvm import relax, te, tirx
from tvm.ir import GenericConst

from relaxc.frontend.element_types import NARROW, carrier, is_integer, type_name, values
from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.casts import decode, encode
from relaxc.frontend.operators.grouped_weights import dequantized_groups


def dequantize_linear(ctx: NodeContext) -> relax.Expr:
    """DequantizeLinear: (x - zero_point) * scale."""
    data, scale = ctx.input(0), ctx.input(1)
    weight = _constant_weight(ctx)
    if weight is not None:
        return weight
    params = None if ctx.types[0] in NARROW else _constant_params(ctx, dtype(data))
    if params is not None:
        return relax.op.dequantize(data, *params, axis=_axis(ctx, data))
    kind = dtype(scale)
    target = ctx.output_types[0]
    if target and target not in NARROW and carrier(target) != kind:
        raise ValueError("a result of another type than the scale is not supported")
    if ctx.types[1] in NARROW:
        scale, kind = ctx.bb.emit(decode(ctx, scale, ctx.types[1])), "float32"
    data = _as_number(ctx, data, ctx.types[0])
    if ctx.has(2):
        zero = spread(ctx, _as_number(ctx, ctx.input(2), ctx.types[2]), data)
        data = ctx.bb.emit(relax.op.subtract(data, zero))
    wide = ctx.bb.emit(relax.op.astype(data, "float32"))
    factor = spread(ctx, scale, data)
    if kind != "float32":
        factor = ctx.bb.emit(relax.op.astype(factor, "float32"))
    result = ctx.bb.emit(relax.op.multiply(wide, factor))
    return result if kind == "float32" else relax.op.astype(result, kind)


def _constant_weight(ctx: NodeContext) -> relax.Expr | None:
    """A constant of a few bits, as kernels read it: integers, or float8_e4m3fn."""
    block, axis = int(ctx.attrs.get("block_size", 0)), int(ctx.attrs.get("axis", 1))
    inputs = [ctx.input(i) for i in range(3) if i < 2 or ctx.has(2)]
    if not all(isinstance(v, GenericConst) for v in inputs) or ctx.output_types[0] in NARROW:
        return None
    numbers, scale, *rest = (value.value.numpy() for value in inputs)
    element = ctx.types[0]
    zero = rest[0] if rest else np.zeros(scale.shape, numbers.dtype)
    if element == TensorProto.FLOAT8E4M3FN:
        if (zero & 0x7F).any():
            return None
        # Zero points of floats say the type, no more.
        numbers, zero = numbers.view(ml_dtypes.float8_e4m3fn), np.zeros(scale.shape, np.int8)
    elif not is_integer(element) or carrier(element) not in ("int8", "uint8"):
        return None
    elif element in NARROW:
        table = values(element)
        kind = np.int8 if table.min() < 0 else np.uint8
        numbers, zero = (table[array].astype(kind) for array in (numbers, zero))
    if scale.dtype != np.float32:
        return None
    if block:
        whole = numbers.shape[axis] == block * scale.shape[axis]
        return dequantized_groups(ctx.bb, numbers, scale, zero, axis) if whole else None
    if scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    if scale.ndim > 1:
        return None
    constants = [relax.const(array, array.dtype.name) for array in (numbers, scale, zero)]
    return relax.op.dequantize(*constants, axis=_axis(ctx, inputs[0]))


_BYTES = (TensorProto.UINT8, TensorProto.INT8)


def _constant_params(ctx: NodeContext, kind: str) -> tuple[relax.Expr, relax.Expr] | None:
    """Scale and zero point where passes can realize them: known bytes, per tensor or per axis."""
    scale, zero = ctx.input(1), ctx.input(2) if ctx.has(2) else None
    plain = kind in ("uint8", "int8") and not int(ctx.attrs.get("block_size", 0))
    if not plain or not isinstance(scale, GenericConst) or ctx.output_types[0] in NARROW:
        return None
    if zero is not None and not isinstance(zero, GenericConst):
        return None
    factors = scale.value.numpy()
    points = np.zeros(factors.shape, kind) if zero is None else zero.value.numpy()
    if factors.dtype != np.float32 or points.dtype != kind or factors.ndim > 1:
        return None
    if factors.size == 1:
        factors, points = factors.reshape(()), points.reshape(())
    return relax.const(factors, "float32"), relax.const(points, kind)


def _axis(ctx: NodeContext, data: relax.Expr) -> int:
    rank = len(dims(data))
    return int(ctx.attrs.get("axis", 1)) % rank if rank > 1 else 0


def _as_number(ctx: NodeContext, value: relax.Expr, element: int) -> relax.Expr:
    """Elements as int32 or float32."""
    if element in NARROW:
        return ctx.bb.emit(decode(ctx, value, element))
    if dtype(value) in ("int32", "float32"):
        return value
    return ctx.bb.emit(relax.op.astype(value, "int32"))


def spread(ctx: NodeContext, scale: relax.Expr, data: relax.Expr) -> relax.Expr:
    """A scale or zero point, as a tensor that broadcasts against the data."""
    rank, given = len(dims(data)), len(dims(scale))
    block = int(ctx.attrs.get("block_size", 0))
    axis = int(ctx.attrs.get("axis", 1))
    if given == 0 or (given == 1 and rank == 1 and not block):
        return scale
    if given == 1 and _is_single(scale):
        return ctx.bb.emit(relax.op.reshape(scale, []))
    axis %= rank
    if not block:
        shape: list[Any] = [1] * rank
        shape[axis] = dims(scale)[0]
        return ctx.bb.emit(relax.op.reshape(scale, relax.ShapeExpr(shape)))

    def compute(s: te.Tensor, x: te.Tensor) -> te.Tensor:
        return te.compute(
            x.shape,
            lambda *i: s(*i[:axis], tirx.floordiv(i[axis], block), *i[axis + 1 :]),
            name="spread",
        )

    return ctx.emit_te(compute, scale, data, name="spread")


def _is_single(value: relax.Expr) -> bool:
    size = dims(value)[0]
    return isinstance(size, tirx.IntImm) and int(size) == 1


def quantize_linear(ctx: NodeContext) -> relax.Expr:
    """QuantizeLinear: round(x / scale) to nearest even, plus the zero point, saturated."""
    data, scale = ctx.input(0), ctx.input(1)
    target = (ctx.types[2] if ctx.has(2) else 0) or ctx.output_types[0] or TensorProto.UINT8
    params = _constant_params(ctx, "uint8" if target == TensorProto.UINT8 else "int8")
    if params is not None and dtype(data) == "float32" and target in _BYTES:
        kind = str(params[1].ty.dtype.dtype)
        return relax.op.quantize(data, *params, axis=_axis(ctx, data), out_dtype=kind)
    bb = ctx.bb
    if dtype(data) != "float32":
        data = bb.emit(relax.op.astype(data, "float32"))
    if ctx.types[1] in NARROW:
        scale = bb.emit(decode(ctx, scale, ctx.types[1]))
    factor = spread(ctx, scale, data)
    if dtype(factor) != "float32":
        factor = bb.emit(relax.op.astype(factor, "float32"))
    ratio = bb.emit(relax.op.divide(data, factor))
    zero = None
    if ctx.has(2):
        zero = spread(ctx, _as_number(ctx, ctx.input(2), ctx.types[2]), data)
    if target in NARROW and not is_integer(target):
        if zero is not None:
            ratio = bb.emit(relax.op.add(ratio, zero))
        return encode(ctx, ratio, target, bool(ctx.attrs.get("saturate", 1)))
    return quantized(ctx, ratio, zero, target)


def quantized(
    ctx: NodeContext, ratio: relax.Expr, zero: relax.Expr | None, target: int
) -> relax.Expr:
    """Round to nearest even, add the zero point and saturate to an integer type."""
    low, high = bounds(target)
    bb = ctx.bb
    rounded = bb.emit(round_even(ctx, ratio))
    if zero is not None:
        if dtype(zero) != "float32":
            zero = bb.emit(relax.op.astype(zero, "float32"))
        rounded = bb.emit(relax.op.add(rounded, zero))
    clipped = bb.emit(relax.op.clip(rounded, low, high))
    if target in NARROW:
        return encode(ctx, clipped, target)
    return relax.op.astype(clipped, carrier(target))


def round_even(ctx: NodeContext, value: relax.Expr) -> relax.Expr:
    """Round half to even."""
    return relax.op.round(value)


def bounds(target: int) -> tuple[int, int]:
    """The least and the largest number of an integer type."""
    if target in NARROW:
        bits = 4 if "4" in type_name(target) else 2
        return (
            (0, (1 << bits) - 1)
            if "u" in type_name(target)
            else (-(1 << bits - 1), (1 << bits - 1) - 1)
        )
    info = np.iinfo(carrier(target))
    return int(info.min), int(info.max)


def qlinear_matmul(ctx: NodeContext) -> relax.Expr:
    """QLinearMatMul: exact int32 products, scaled and quantized again."""
    bb = ctx.bb
    a, b = (_centered(ctx, i, i + 2, i == 3) for i in (0, 3))
    product = bb.emit(relax.op.matmul(a, b, out_dtype="int32"))
    scale = bb.emit(relax.op.multiply(_float(ctx, 1, -1), _float(ctx, 4, None)))
    ratio = bb.emit(relax.op.astype(product, "float32"))
    ratio = bb.emit(relax.op.multiply(ratio, scale))
    ratio = bb.emit(relax.op.divide(ratio, _float(ctx, 6, -1)))
    return quantized(ctx, ratio, ctx.input(7), ctx.types[7])


def _float(ctx: NodeContext, index: int, column: int | None) -> relax.Expr:
    value = ctx.input(index)
    if dtype(value) != "float32":
        value = ctx.bb.emit(relax.op.astype(value, "float32"))
    if column == -1 and len(dims(value)) == 1 and not _is_single(value):
        value = ctx.bb.emit(relax.op.expand_dims(value, [1]))
    return value


def _centered(ctx: NodeContext, index: int, zero: int, is_right: bool) -> relax.Expr:
    data = ctx.bb.emit(relax.op.astype(ctx.input(index), "int32"))
    if not ctx.has(zero):
        return data
    point = ctx.bb.emit(relax.op.astype(ctx.input(zero), "int32"))
    if len(dims(point)) == 1 and not _is_single(point) and not is_right:
        point = ctx.bb.emit(relax.op.expand_dims(point, [1]))
    return ctx.bb.emit(relax.op.subtract(data, point))


def matmul_integer(ctx: NodeContext) -> relax.Expr:
    """MatMulInteger."""
    a, b = _centered(ctx, 0, 2, False), _centered(ctx, 1, 3, True)
    return relax.op.matmul(a, b, out_dtype="int32")


CONVERTERS: dict[str, Converter] = {
    "DequantizeLinear": dequantize_linear,
    "MatMulInteger": matmul_integer,
    "QLinearMatMul": qlinear_matmul,
    "QuantizeLinear": quantize_linear,
}
