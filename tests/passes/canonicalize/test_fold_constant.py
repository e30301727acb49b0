"""Operators on constants are computed by NumPy; what would grow the model is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from relaxc.passes.canonicalize.fold_constant import FoldConstant


def _module(build: Callable[[relax.Var, relax.BlockBuilder], relax.Expr]) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType([2, 3, 4], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(build(x, builder))
        builder.emit_func_output(result)
    return builder.get()


def _bias(x: relax.Var, builder: relax.BlockBuilder) -> relax.Expr:
    bias = relax.const(np.arange(3, dtype=np.float32))
    spread = builder.emit(relax.op.reshape(bias, (1, 3, 1)))
    doubled = builder.emit(relax.op.multiply(spread, relax.const(np.float32(2))))
    return relax.op.add(x, doubled)


def test_folds_what_depends_on_constants(golden: Callable[..., None]) -> None:
    folded = (np.arange(3, dtype=np.float32) * 2).reshape(1, 3, 1)
    expected = _module(lambda x, _builder: relax.op.add(x, relax.const(folded)))
    golden(FoldConstant(), _module(_bias), expected)


def test_leaves_growth_alone(golden: Callable[..., None]) -> None:
    def build(x: relax.Var, builder: relax.BlockBuilder) -> relax.Expr:
        big = builder.emit(relax.op.broadcast_to(relax.const(np.float32(1)), (99, 99, 3, 4)))
        return relax.op.add(x, builder.emit(relax.op.sum(big)))

    golden(FoldConstant(), _module(build), _module(build))


def test_joins_large_weights(golden: Callable[..., None]) -> None:
    """What joins constants is larger than each of them, but not than all: the model stays small."""
    half = np.ones((1, 200, 3, 100), np.float32)

    def build(x: relax.Var, builder: relax.BlockBuilder) -> relax.Expr:
        both = builder.emit(relax.op.concat([relax.const(half), relax.const(half)], 1))
        return relax.op.add(x, builder.emit(relax.op.sum(both)))

    def joined(x: relax.Var, builder: relax.BlockBuilder) -> relax.Expr:
        both = relax.const(np.concatenate([half, half], 1))
        return relax.op.add(x, builder.emit(relax.op.sum(both)))

    golden(FoldConstant(), _module(build), _module(joined))


def test_leaves_integer_division_alone(golden: Callable[..., None]) -> None:
    """NumPy rounds down, the runtime toward zero."""

    def build(x: relax.Var, builder: relax.BlockBuilder) -> relax.Expr:
        minus = relax.const(np.array([-3], np.int64))
        half = builder.emit(relax.op.divide(minus, relax.const(np.array([2], np.int64))))
        return relax.op.add(x, builder.emit(relax.op.astype(half, "float32")))

    golden(FoldConstant(), _module(build), _module(build))


@pytest.mark.parametrize("op", ["permute_dims", "negative", "sqrt", "exp", "squeeze"])
def test_same_numbers(op: str, execute: Callable[..., np.ndarray]) -> None:
    values = np.abs(np.random.default_rng(0).standard_normal((1, 2, 3, 4))).astype(np.float32)

    def build(x: relax.Var, builder: relax.BlockBuilder) -> relax.Expr:
        result = builder.emit(getattr(relax.op, op)(relax.const(values)))
        return relax.op.sum(result) + relax.op.sum(x)

    before = _module(build)
    after = FoldConstant().apply(before)
    x = np.ones((2, 3, 4), np.float32)
    assert f"R.{op}" not in after.script()
    np.testing.assert_allclose(execute(after, x), execute(before, x), rtol=1e-6)
