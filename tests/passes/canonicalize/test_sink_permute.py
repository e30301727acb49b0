"""Transposes move below elementwise operators."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.canonicalize.sink_permute import SinkPermute


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((2, 3, 4), "float32"), y: R.Tensor((2, 3, 4), "float32")) -> R.Tensor(
        (4, 2, 3), "float32"
    ):
        with R.dataflow():
            lv = R.permute_dims(x, axes=[2, 0, 1])
            lv1 = R.permute_dims(y, axes=[2, 0, 1])
            lv2 = R.add(lv, lv1)
            gv = R.nn.relu(lv2)
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((2, 3, 4), "float32"), y: R.Tensor((2, 3, 4), "float32")) -> R.Tensor(
        (4, 2, 3), "float32"
    ):
        with R.dataflow():
            lv = R.add(x, y)
            lv1 = R.nn.relu(lv)
            gv = R.permute_dims(lv1, axes=[2, 0, 1])
            R.output(gv)
        return gv


@I.ir_module
class DifferentAxes:
    @R.function
    def main(x: R.Tensor((3, 3, 3), "float32"), y: R.Tensor((3, 3, 3), "float32")) -> R.Tensor(
        (3, 3, 3), "float32"
    ):
        with R.dataflow():
            lv = R.permute_dims(x, axes=[2, 0, 1])
            lv1 = R.permute_dims(y, axes=[0, 2, 1])
            gv = R.add(lv, lv1)
            R.output(gv)
        return gv


@I.ir_module
class OneTransposed:
    @R.function
    def main(x: R.Tensor((3, 3, 3), "float32"), y: R.Tensor((3, 3, 3), "float32")) -> R.Tensor(
        (3, 3, 3), "float32"
    ):
        with R.dataflow():
            lv = R.permute_dims(x, axes=[2, 0, 1])
            gv = R.add(lv, y)
            R.output(gv)
        return gv


def test_rewrites(golden: Callable[..., None]) -> None:
    golden(SinkPermute(), Before, Expected)


def test_leaves_different_axes_alone(golden: Callable[..., None]) -> None:
    golden(SinkPermute(), DifferentAxes, DifferentAxes)


def test_leaves_one_transposed_operand_alone(golden: Callable[..., None]) -> None:
    golden(SinkPermute(), OneTransposed, OneTransposed)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((2, 3, 4)).astype(np.float32) for _ in range(2))
    after = SinkPermute().apply(Before)
    np.testing.assert_array_equal(execute(Before, x, y), execute(after, x, y))
