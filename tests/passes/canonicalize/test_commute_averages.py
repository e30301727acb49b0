"""Averages come before pointwise convolutions where they leave fewer pixels, after them else."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import IRModule, relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.canonicalize.commute_averages import CommuteAverages


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 4, 6, 6), "float32"),
        w: R.Tensor((5, 4, 1, 1), "float32"),
        v: R.Tensor((2, 5, 1, 1), "float32"),
    ):
        with R.dataflow():
            a = R.nn.conv2d(x, w)
            b = R.nn.avg_pool2d(a, [2, 2], strides=[2, 2])
            c = R.nn.relu(b)
            d = R.nn.avg_pool2d(c, [3, 3], padding=[1, 1, 1, 1], count_include_pad=True)
            e = R.nn.conv2d(d, v)
            y = R.nn.relu(e)
            R.output(y)
        return y


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor((1, 4, 6, 6), "float32"),
        w: R.Tensor((5, 4, 1, 1), "float32"),
        v: R.Tensor((2, 5, 1, 1), "float32"),
    ):
        with R.dataflow():
            a = R.nn.avg_pool2d(x, [2, 2], strides=[2, 2])
            b = R.nn.conv2d(a, w)
            c = R.nn.relu(b)
            d = R.nn.conv2d(c, v)
            e = R.nn.avg_pool2d(d, [3, 3], padding=[1, 1, 1, 1], count_include_pad=True)
            y = R.nn.relu(e)
            R.output(y)
        return y


def test_rewrites(golden: Callable[..., None]) -> None:
    golden(CommuteAverages(), Before, Expected)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    shapes = ((1, 4, 6, 6), (5, 4, 1, 1), (2, 5, 1, 1))
    inputs = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    after = execute(CommuteAverages().apply(Before), *inputs)
    np.testing.assert_allclose(after, execute(Before, *inputs), rtol=1e-5, atol=1e-6)


def pair(
    conv: dict[str, object] | None = None,
    pool: dict[str, object] | None = None,
    weight: tuple[int, ...] = (5, 4, 1, 1),
    is_read: bool = False,
) -> IRModule:
    """A convolution and the average of its result, which something else may read."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 9, 9), "float32"))
    w = relax.Var("w", relax.TensorType(weight, "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            a = builder.emit(relax.op.nn.conv2d(x, w, **(conv or {})))
            b = builder.emit(
                relax.op.nn.avg_pool2d(a, **{"pool_size": 2, "strides": 2, **(pool or {})})
            )
            y = builder.emit_output(relax.Tuple([a, b]) if is_read else b)
        builder.emit_func_output(y)
    return builder.get()


def test_edges_that_are_not_counted(execute: Callable[..., np.ndarray]) -> None:
    before = pair(pool={"pool_size": 3, "padding": 1, "ceil_mode": True})
    after = CommuteAverages().apply(before)
    assert after["main"].body.blocks[0].bindings[0].value.op.name == "relax.nn.avg_pool2d"
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in ((1, 4, 9, 9), (5, 4, 1, 1))]
    np.testing.assert_allclose(execute(after, *inputs), execute(before, *inputs), rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"is_read": True},
        {"conv": {"strides": 2}},
        {"conv": {"padding": 1}},
        {"conv": {"groups": 2}, "weight": (4, 2, 1, 1)},
        {"weight": (5, 4, 3, 3)},
        {"pool": {"strides": 1}},
    ],
)
def test_leaves_others_alone(options: dict[str, object]) -> None:
    before = pair(**options)
    tvm.ir.assert_structural_equal(CommuteAverages().apply(before), before)
