"""Arithmetic whose stock converters are wrong at the edges: mixed types, signs, large shifts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, constant, dims, dtype
from relaxc.frontend.operators.broadcast import with_sizes

# ONNX's defaults.
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def binary(
    ctx: NodeContext, func: Callable[[Any, Any], Any], a: relax.Expr, b: relax.Expr
) -> relax.Expr:
    """Emit `func` over two tensors, broadcast against each other."""
    rank = max(len(dims(a)), len(dims(b)))

    def dim(shape: list[Any], axis: int) -> Any:
        at = axis - (rank - len(shape))
        return shape[at] if at >= 0 else 1

    def compute(x: te.Tensor, y: te.Tensor) -> te.Tensor:
        left, right = list(x.shape), list(y.shape)
        pairs = [(dim(left, i), dim(right, i)) for i in range(rank)]
        shape = [q if isinstance(p, int | tirx.IntImm) and int(p) == 1 else p for p, q in pairs]

        def at(tensor: te.Tensor, i: tuple[Any, ...]) -> Any:
            inner = i[rank - len(tensor.shape) :]
            return tensor(*(0 if _is_one(n) else k for n, k in zip(tensor.shape, inner)))

        return te.compute(shape, lambda *i: func(at(x, i), at(y, i)), name="elementwise")

    return ctx.emit_te(compute, a, b)


def _is_one(dim: Any) -> bool:
    return isinstance(dim, tirx.IntImm) and int(dim) == 1


def power(ctx: NodeContext) -> relax.Expr:
    """Pow: the result has the type of the base; integers are raised exactly."""
    base, exponent = ctx.input(0), ctx.input(1)
    kind, other = dtype(base), dtype(exponent)
    if "float" in kind:
        if kind != other:
            exponent = ctx.bb.emit(relax.op.astype(exponent, kind))
        return relax.op.power(base, exponent)
    if "float" in other:
        wide = [ctx.bb.emit(relax.op.astype(v, "float64")) for v in (base, exponent)]
        return relax.op.astype(ctx.bb.emit(relax.op.power(*wide)), kind)
    return binary(ctx, lambda a, n: _integer_power(a, n, kind), base, exponent)


def _integer_power(base: Any, exponent: Any, kind: str) -> Any:
    """By squaring: six bits of the exponent decide, for more would overflow any base but 0, 1."""
    result, square = tirx.const(1, kind), base
    n = exponent.astype("int64")
    for bit in range(6):
        is_set = tirx.bitwise_and(tirx.shift_right(n, tirx.const(bit, "int64")), 1) == 1
        result = tirx.Select(is_set, result * square, result)
        square = square * square
    small = tirx.Select(tirx.any(base == 1), tirx.const(1, kind), tirx.const(0, kind))
    odd = tirx.bitwise_and(n, tirx.const(1, "int64")) == 1
    if kind.startswith("int"):
        sign = tirx.Select(odd, tirx.const(-1, kind), tirx.const(1, kind))
        small = tirx.Select(base == -1, sign, small)
    return tirx.Select(n < 0, small, result)


def bit_shift(ctx: NodeContext) -> relax.Expr:
    """BitShift: by the operand's width or more, everything is shifted out."""
    is_left = ctx.text("direction", "LEFT") == "LEFT"
    kind = dtype(ctx.input(0))
    width = np.dtype(kind).itemsize * 8

    def shift(x: Any, by: Any) -> Any:
        inside = tirx.all(by >= 0, by < width) if kind.startswith("int") else by < width
        amount = tirx.min(by, tirx.const(width - 1, kind))
        if kind.startswith("int"):
            amount = tirx.max(amount, tirx.const(0, kind))
        moved = tirx.shift_left(x, amount) if is_left else tirx.shift_right(x, amount)
        rest = tirx.const(0, kind)
        if kind.startswith("int") and not is_left:
            rest = tirx.Select(x < 0, tirx.const(-1, kind), rest)
        return tirx.Select(inside, moved, rest)

    return binary(ctx, shift, ctx.input(0), ctx.input(1))


def modulo(ctx: NodeContext) -> relax.Expr:
    """Mod: the sign of the divisor, or with `fmod` that of the dividend."""
    kind = dtype(ctx.input(0))
    is_float, truncates = "float" in kind, bool(ctx.attrs.get("fmod", 0))

    def compute(a: Any, b: Any) -> Any:
        if not is_float:
            safe = tirx.Select(b == 0, tirx.const(1, kind), b)
            return tirx.truncmod(a, safe) if truncates else tirx.floormod(a, safe)
        x, y = a.astype("float64"), b.astype("float64")
        # x - y * trunc(x / y) in double precision; x itself where the divisor is infinite.
        rest = x - y * tirx.trunc(x / y)
        rest = tirx.Select(tirx.all(tirx.isinf(y), tirx.Not(tirx.isinf(x))), x, rest)
        rest = tirx.Select(rest == 0, tirx.copysign(tirx.const(0.0, "float64"), x), rest)
        if not truncates:
            differs = tirx.any(tirx.all(rest < 0, y > 0), tirx.all(rest > 0, y < 0))
            rest = tirx.Select(differs, rest + y, rest)
            rest = tirx.Select(rest == 0, tirx.copysign(tirx.const(0.0, "float64"), y), rest)
        return rest.astype(kind)

    return binary(ctx, compute, ctx.input(0), ctx.input(1))


def is_infinite(ctx: NodeContext) -> relax.Expr:
    """IsInf of either sign or both."""
    value = ctx.input(0)
    wide = value if dtype(value) in ("float32", "float64") else None
    if wide is None:
        wide = ctx.bb.emit(relax.op.astype(value, "float32"))
    low, high = ctx.attrs.get("detect_negative", 1), ctx.attrs.get("detect_positive", 1)
    if low and high:
        return relax.op.isinf(wide)
    sign = constant(np.zeros((), dtype(wide)))
    side = relax.op.greater(wide, sign) if high else relax.op.less(wide, sign)
    if not high and not low:
        side = relax.op.not_equal(wide, wide)
        return relax.op.logical_and(side, relax.op.logical_not(side))
    return relax.op.logical_and(relax.op.isinf(wide), side)


def elu(ctx: NodeContext) -> relax.Expr:
    """Elu and Selu in any float type."""
    is_scaled, kind = ctx.node.op_type == "Selu", dtype(ctx.input(0))
    alpha = float(ctx.attrs.get("alpha", _SELU_ALPHA if is_scaled else 1.0))
    gamma = float(ctx.attrs.get("gamma", _SELU_GAMMA)) if is_scaled else 1.0

    def compute(x: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            low = tirx.const(alpha, kind) * (tirx.exp(x(*i)) - tirx.const(1, kind))
            value = tirx.Select(x(*i) > 0, x(*i), low)
            return value if gamma == 1.0 else tirx.const(gamma, kind) * value

        return te.compute(x.shape, element, name="elu")

    return ctx.emit_te(compute, ctx.input(0))


def celu(ctx: NodeContext) -> relax.Expr:
    """Celu: an exponential below 0 whose slope at 0 is 1."""
    alpha, kind = float(ctx.attrs.get("alpha", 1.0)), dtype(ctx.input(0))

    def compute(x: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            a, zero, one = (tirx.const(v, kind) for v in (alpha, 0.0, 1.0))
            low = a * (tirx.exp(tirx.min(x(*i), zero) / a) - one)
            return tirx.Select(x(*i) > 0, x(*i), low)

        return te.compute(x.shape, element, name="celu")

    return ctx.emit_te(compute, ctx.input(0))


def equal(ctx: NodeContext) -> relax.Expr:
    """Equal; of booleans by Xor, because LLVM refuses comparisons of bits with bytes."""
    a, b = ctx.input(0), ctx.input(1)
    if dtype(a) != "bool":
        return relax.op.equal(a, b)
    return relax.op.logical_not(ctx.bb.emit(relax.op.logical_xor(a, b)))


def prelu(ctx: NodeContext) -> relax.Expr:
    """PRelu with a slope that broadcasts."""
    x, slope = ctx.input(0), ctx.input(1)
    shift = len(dims(x)) - len(dims(slope))
    sizes = {a + shift: n for a, n in enumerate(dims(slope)) if not _is_one(n)}
    # A slope's size that is a number is the data's; a symbol may be 1.
    x = with_sizes(ctx, x, {a: n for a, n in sizes.items() if isinstance(n, tirx.IntImm)})
    zero = constant(np.zeros((), dtype(x)))
    low = ctx.bb.emit(relax.op.multiply(x, slope))
    return relax.op.where(ctx.bb.emit(relax.op.less(x, zero)), low, x)


CONVERTERS: dict[str, Converter] = {
    "BitShift": bit_shift,
    "Celu": celu,
    "Elu": elu,
    "Equal": equal,
    "IsInf": is_infinite,
    "Mod": modulo,
    "PRelu": prelu,
    "Pow": power,
    "Selu": elu,
}
