"""Cast, CastLike and BitCast, the types that machines lack included (float8, float4, int4, ...)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto
from tvm import relax, te, tirx

from relaxc.frontend.element_types import (
    NARROW,
    carrier,
    dtype_name,
    is_integer,
    type_name,
    values,
)
from relaxc.frontend.operators.base import Converter, NodeContext, constant, dtype

# Integers that no machine converts floats to -> what they are converted to on the way.
_WRAPPED = dict.fromkeys(("int8", "uint8", "int16", "uint16"), "int32") | {"uint32": "int64"}


def cast(ctx: NodeContext) -> relax.Expr:
    """Cast; `saturate` and `round_mode` say what becomes of numbers that float8 cannot hold."""
    return _convert(ctx, int(ctx.attrs["to"]))


def cast_like(ctx: NodeContext) -> relax.Expr:
    """CastLike: a cast to the type of the second input."""
    target = ctx.types[1] or ctx.output_types[0]
    if not target:
        raise ValueError("the element type of the second input is unknown")
    return _convert(ctx, target)


def _convert(ctx: NodeContext, target: int) -> relax.Expr:
    saturate = bool(ctx.attrs.get("saturate", 1))
    mode = ctx.text("round_mode", "up")
    return convert_type(ctx, ctx.input(0), ctx.types[0], target, saturate, mode)


def convert_type(
    ctx: NodeContext,
    value: relax.Expr,
    source: int,
    target: int,
    saturate: bool = True,
    round_mode: str = "up",
) -> relax.Expr:
    """Cast between any two ONNX element types; strings are refused.

    Args:
        ctx: the node that casts.
        value: the tensor, as it is carried.
        source: its ONNX element type; 0 means that its Relax dtype says it all.
        target: the ONNX element type wanted.
        saturate: whether too large numbers become the largest one of float8, else NaN or infinity.
        round_mode: how float8e8m0 rounds: `up`, `down` or `nearest`.
    """
    if source == target:
        return value
    if source in NARROW:
        value = ctx.bb.emit(decode(ctx, value, source))
        if target in NARROW or dtype_name(target) != "float32":
            return convert_type(ctx, value, TensorProto.FLOAT, target, saturate, round_mode)
        return value
    if target in NARROW:
        return encode(ctx, value, target, saturate, round_mode)
    wanted, given = carrier(target), dtype(value)
    if wanted == "object":
        raise ValueError("strings are not supported")
    if wanted == "bool" and given != "bool":
        return relax.op.not_equal(value, relax.const(np.zeros((), given), given))
    if "float" in given and wanted in _WRAPPED:
        # Negative and too large numbers wrap around everywhere, not as a machine likes it.
        value = ctx.bb.emit(relax.op.astype(value, _WRAPPED[wanted]))
    if given == "bool" and wanted not in ("float32", "float64", "int8", "int32", "int64"):
        value = ctx.bb.emit(relax.op.astype(value, "int32"))
    return value if wanted == given else relax.op.astype(value, wanted)


def decode(ctx: NodeContext, codes: relax.Expr, source: int) -> relax.Expr:
    """Bit patterns of a narrow type to float32, by a table."""
    table = constant(values(source))

    def lookup(table: te.Tensor, x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: table[x(*i).astype("int32")], name="decode")

    return ctx.emit_te(lookup, table, codes, name=f"decode_{type_name(source)}")


def encode(
    ctx: NodeContext, value: relax.Expr, target: int, saturate: bool = True, mode: str = "up"
) -> relax.Expr:
    """Numbers to bit patterns of a narrow type; integers wrap around, as in ONNX."""
    name = type_name(target)

    def code(x: Any) -> Any:
        if is_integer(target):
            mask = (1 << (4 if "4" in name else 2)) - 1
            return (x.astype("int64") & mask).astype("uint8")
        number = x.astype("float32")
        if name == "float8e8m0":
            return _exponent_code(number, saturate, mode)
        return _float_code(number, FORMATS[name], saturate)

    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: code(x(*i)), name="encode")

    return ctx.emit_te(compute, value, name=f"encode_{name}")


@dataclass(frozen=True)
class Format:
    """A narrow float: sign, exponent and mantissa.

    Attributes:
        mantissa: bits of the mantissa.
        bias: of the exponent.
        bits: of the whole.
        largest: bit pattern of the largest finite number.
        infinity: bit pattern of infinity, or of what overflows become without saturation.
        nan: bit pattern of not-a-number.
        has_negative_zero: whether -0 differs from 0.
    """

    mantissa: int
    bias: int
    bits: int
    largest: int
    infinity: int
    nan: int
    has_negative_zero: bool = True


FORMATS = {
    "float8e4m3fn": Format(3, 7, 8, 0x7E, 0x7F, 0x7F),
    "float8e4m3fnuz": Format(3, 8, 8, 0x7F, 0x80, 0x80, False),
    "float8e5m2": Format(2, 15, 8, 0x7B, 0x7C, 0x7F),
    "float8e5m2fnuz": Format(2, 16, 8, 0x7F, 0x80, 0x80, False),
    "float4e2m1": Format(1, 1, 4, 0x7, 0x7, 0x8),
    "float6e2m3": Format(3, 1, 6, 0x1F, 0x1F, 0x20),
    "float6e3m2": Format(2, 3, 6, 0x1F, 0x1F, 0x20),
}


def _float_code(x: Any, form: Format, saturate: bool) -> Any:
    """Round to nearest even, on the bits of a float32."""
    bits = tirx.reinterpret("int32", x)
    sign = (bits >> 31) & 1
    magnitude = bits & 0x7FFFFFFF
    shift = 23 - form.mantissa
    rounded = (magnitude + ((1 << (shift - 1)) - 1) + ((magnitude >> shift) & 1)) >> shift
    normal = rounded - ((127 - form.bias) << form.mantissa)
    # Below the smallest normal number the steps are even: scale by a power of two, and round.
    step = float(2.0 ** (form.bias - 1 + form.mantissa))
    small = tirx.nearbyint(tirx.abs(x) * tirx.const(step, "float32")).astype("int32")
    smallest = (127 + 1 - form.bias) << 23
    is_small = magnitude < smallest
    code = tirx.Select(is_small, tirx.Select(is_small, small, 0), normal)
    is_nan, is_infinite = magnitude > 0x7F800000, magnitude == 0x7F800000
    overflow = form.largest if saturate or form.bits < 8 else form.infinity
    code = tirx.Select(tirx.any(code > form.largest, is_infinite), overflow, code)
    signed = code | (sign << (form.bits - 1))
    if not form.has_negative_zero:
        signed = tirx.Select(code == 0, 0, signed)
        signed = tirx.Select(code == form.nan, form.nan, signed)
    nan = form.nan | (sign << (form.bits - 1)) if form.has_negative_zero else form.nan
    return tirx.Select(is_nan, nan, signed).astype("uint8")


def _exponent_code(x: Any, saturate: bool, mode: str) -> Any:
    """float8e8m0: the exponent alone, of the magnitude."""
    bits = tirx.reinterpret("int32", x) & 0x7FFFFFFF
    exponent, mantissa = bits >> 23, bits & 0x7FFFFF
    if mode == "nearest":
        up = tirx.any(mantissa > 0x400000, tirx.all(mantissa == 0x400000, exponent > 0))
    else:
        up = mantissa > 0 if mode == "up" else tirx.const(False, "bool")
    code = tirx.Select(up, exponent + 1, exponent)
    limit = 254 if saturate else 255
    code = tirx.Select(code > 254, limit, code)
    return tirx.Select(bits > 0x7F800000, 255, code).astype("uint8")


def bit_cast(ctx: NodeContext) -> relax.Expr:
    """BitCast between types of one size."""
    target = int(ctx.attrs["to"])
    value = ctx.input(0)
    wanted = carrier(target)
    if target in NARROW or ctx.types[0] in NARROW:
        if wanted == dtype(value):
            return value
        raise ValueError("bit patterns of narrow types are not supported")
    if dtype(value) == "bool":
        value = ctx.bb.emit(relax.op.astype(value, "int8"))

    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: tirx.reinterpret(wanted, x(*i)), name="bits")

    if wanted == "bool":
        return relax.op.not_equal(value, relax.const(np.zeros((), dtype(value)), dtype(value)))
    if np.dtype(wanted).itemsize != np.dtype(dtype(value)).itemsize:
        raise ValueError("a BitCast to a type of another size is not supported")
    return ctx.emit_te(compute, value)


CONVERTERS: dict[str, Converter] = {"BitCast": bit_cast, "Cast": cast, "CastLike": cast_like}
