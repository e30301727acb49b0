"""Elementwise Relax operators as CUDA C++: what a kernel applies to its sums in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import relax

from relaxc.targets.llvm.kernels.elementwise import scalar_value

_UNARY = {
    "relax.abs": "fabsf({0})",
    "relax.ceil": "ceilf({0})",
    "relax.erf": "erff({0})",
    "relax.exp": "expf({0})",
    "relax.floor": "floorf({0})",
    "relax.log": "logf({0})",
    "relax.negative": "-{0}",
    "relax.nn.gelu": "gelu({0})",
    "relax.nn.gelu_tanh": "(0.5f * {0} * (1.0f + tanhf(0.7978845608028654f * "
    "({0} + 0.044715f * {0} * {0} * {0}))))",
    # As written: a comparison, unlike fmaxf, lets NaN through.
    "relax.nn.relu": "({0} < 0.0f ? 0.0f : {0})",
    "relax.nn.silu": "({0} * sigmoid({0}))",
    "relax.rsqrt": "(1.0f / sqrtf({0}))",
    "relax.sigmoid": "sigmoid({0})",
    "relax.sqrt": "sqrtf({0})",
    "relax.square": "({0} * {0})",
    "relax.tanh": "tanhf({0})",
}
_BINARY = {
    "relax.add": "({0} + {1})",
    "relax.divide": "({0} / {1})",
    "relax.maximum": "({0} < {1} ? {1} : {0})",
    "relax.minimum": "({1} < {0} ? {1} : {0})",
    "relax.multiply": "({0} * {1})",
    "relax.power": "powf({0}, {1})",
    "relax.subtract": "({0} - {1})",
}
OPERATORS = frozenset(_UNARY) | frozenset(_BINARY) | {"relax.clip", "relax.nn.leakyrelu"}


def statements(
    bindings: Sequence[tuple[relax.Var, relax.Call]],
    known: dict[relax.Expr, str],
    read: Callable[[relax.Expr, relax.Call], str],
) -> tuple[list[str], str]:
    """Compute bindings on floats.

    Args:
        bindings: elementwise calls, in order.
        known: names of the values computed so far; what is computed here is added.
        read: the expression for an operand that is none of these.

    Returns:
        C++ statements, and the name of the last value.
    """
    lines: list[str] = []
    result = next(reversed(known.values()))
    for var, call in bindings:
        if str(call.op.name) == "relax.reshape":
            known[var] = result = known[call.args[0]]
            continue
        args = []
        for arg in call.args:
            if arg in known:
                args.append(known[arg])
            elif isinstance(arg.ty, relax.TensorType):
                scalar = scalar_value(arg)
                args.append(number(scalar) if scalar is not None else read(arg, call))
        name = f"t{len(known)}"
        lines.append(f"float {name} = {_expression(call, args)};")
        known[var] = result = name
    return lines, result


def number(value: float) -> str:
    """A float literal."""
    if value != value:
        return "__int_as_float(0x7fffffff)"
    if value in (float("inf"), float("-inf")):
        return "__int_as_float(0x7f800000)" if value > 0 else "__int_as_float(0xff800000)"
    text = repr(float(value))
    text = text if any(c in text for c in ".e") else text + ".0"
    return f"({text}f)" if value < 0 else f"{text}f"


def _expression(call: relax.Call, args: Sequence[str]) -> str:
    op = str(call.op.name)
    if op == "relax.clip":
        low, high = (number(float(getattr(a, "value", a))) for a in call.args[1:3])
        return f"fminf({high}, fmaxf({low}, {args[0]}))"
    if op == "relax.nn.leakyrelu":
        return f"({args[0]} < 0.0f ? {number(float(call.attrs.alpha))} * {args[0]} : {args[0]})"
    if op == "relax.power":
        powers = {"2.0f": "({0} * {0})", "3.0f": "({0} * {0} * {0})", "0.5f": "sqrtf({0})"}
        if args[1] in powers:
            return powers[args[1]].format(args[0])
    return (_UNARY.get(op) or _BINARY[op]).format(*args)
