"""Large windows of maximum pooling come from smaller ones."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.canonicalize.chain_pools import ChainPools


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((1, 2, 7, 6), "float32")):
        with R.dataflow():
            a = R.nn.max_pool2d(x, [3, 5], padding=[1, 2, 1, 2])
            b = R.nn.max_pool2d(x, [7, 5], padding=[3, 2, 3, 2])
            c = R.nn.max_pool2d(x, [9, 13], padding=[4, 6, 4, 6])
            y = R.concat((a, b, c), axis=1)
            R.output(y)
        return y


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((1, 2, 7, 6), "float32")):
        with R.dataflow():
            a = R.nn.max_pool2d(x, [3, 5], padding=[1, 2, 1, 2])
            b = R.nn.max_pool2d(a, [5, 1], padding=[2, 0, 2, 0])
            c = R.nn.max_pool2d(b, [3, 9], padding=[1, 4, 1, 4])
            y = R.concat((a, b, c), axis=1)
            R.output(y)
        return y


def test_rewrites(golden: Callable[..., None]) -> None:
    golden(ChainPools(), Before, Expected)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 7, 6)).astype(np.float32) - 5
    np.testing.assert_array_equal(execute(ChainPools().apply(Before), x), execute(Before, x))


def pools(first: dict[str, object], second: dict[str, object]) -> IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 2, 9, 9), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            a = builder.emit(relax.op.nn.max_pool2d(x, **first))
            b = builder.emit(relax.op.nn.max_pool2d(x, **second))
            y = builder.emit_output(relax.Tuple([a, b]))
        builder.emit_func_output(y)
    return builder.get()


def test_leaves_others_alone() -> None:
    same, large = {"pool_size": 3, "padding": 1}, {"pool_size": 5, "padding": 2}
    for first, second in (
        (large, same),  # the smaller one comes later
        (same, {"pool_size": 5, "padding": 1}),
        (same, {**large, "strides": 2}),
        (same, {"pool_size": 4, "padding": [1, 1, 2, 2]}),
        ({"pool_size": [3, 7], "padding": [1, 3, 1, 3]}, large),
    ):
        before = pools(first, second)
        tvm.ir.assert_structural_equal(ChainPools().apply(before), before)
