"""Written-out RMS normalization becomes one operator."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
from tvm import IRModule, relax

from relaxc.passes.canonicalize.raise_rms_norm import RaiseRmsNorm

EPSILON = 2.0**-16
SCALE = np.linspace(0.5, 2, 16, dtype=np.float32)


def number(value):
    return relax.const(value, "float32")


SQUARES = {
    "power": lambda x: relax.op.power(x, number(2.0)),
    "square": relax.op.square,
    "product": lambda x: relax.op.multiply(x, x),
}
QUOTIENTS = {
    "sqrt": lambda emit, x, t: relax.op.divide(x, emit(relax.op.sqrt(t))),
    "rsqrt": lambda emit, x, t: relax.op.multiply(emit(relax.op.rsqrt(t)), x),
    "reciprocal": lambda emit, x, t: relax.op.multiply(
        x, emit(relax.op.divide(number(1.0), emit(relax.op.sqrt(t))))
    ),
    "power": lambda emit, x, t: relax.op.multiply(x, emit(relax.op.power(t, number(-0.5)))),
}


def norm(
    square="power", quotient="sqrt", scaled=True, axis=-1, keepdims=True, read_twice=False
) -> IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((16, 16), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            mean = builder.emit(
                relax.op.mean(builder.emit(SQUARES[square](x)), [axis], keepdims=keepdims)
            )
            total = builder.emit(relax.op.add(mean, number(EPSILON)))
            y = QUOTIENTS[quotient](builder.emit, x, total)
            if scaled:
                y = relax.op.multiply(relax.const(SCALE), builder.emit(y))
            if read_twice:
                y = relax.op.add(builder.emit(y), total)
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    return builder.get()


def raised(scale) -> IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((16, 16), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(
                relax.op.nn.rms_norm(x, relax.const(scale), axes=[-1], epsilon=EPSILON)
            )
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("quotient", QUOTIENTS)
def test_rewrites(golden, square, quotient) -> None:
    golden(RaiseRmsNorm(), norm(square, quotient), raised(SCALE))


def test_without_a_scale(golden) -> None:
    golden(RaiseRmsNorm(), norm(scaled=False), raised(np.ones(16, np.float32)))


@pytest.mark.parametrize(
    "options", [{"axis": 0}, {"keepdims": False}, {"read_twice": True}], ids=str
)
def test_leaves_other_formulas_alone(golden, options) -> None:
    golden(RaiseRmsNorm(), norm(**options), norm(**options))


def test_calls_of_two_arguments_may_return_tuples(golden) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((16, 16), "float32"))
    pair = relax.TupleType([x.ty, x.ty])
    with builder.function("main", [x]):
        with builder.dataflow():
            mean = builder.emit(relax.op.mean(x, [-1]))
            both = builder.emit(relax.op.call_pure_packed("pair", x, ty_args=[pair]))
            result = builder.emit_output(relax.Tuple([mean, relax.TupleGetItem(both, 0)]))
        builder.emit_func_output(result)
    golden(RaiseRmsNorm(), builder.get(), builder.get())


def test_same_numbers(execute) -> None:
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    np.testing.assert_allclose(execute(raised(SCALE), x), execute(norm(), x), rtol=1e-5)
