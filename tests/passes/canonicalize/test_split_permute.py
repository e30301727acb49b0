"""Dimensions are permuted without being merged first."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T
from virtual_machine import virtual_machine

from relaxc.passes.canonicalize.split_permute import SplitPermute


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((8, 3, 197, 64), "float32")) -> R.Tensor((8, 3, 64, 197), "float32"):
        with R.dataflow():
            lv = R.reshape(x, R.shape([24, 197, 64]))
            lv1 = R.permute_dims(lv, axes=[0, 2, 1])
            gv = R.reshape(lv1, R.shape([8, 3, 64, 197]))
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((8, 3, 197, 64), "float32")) -> R.Tensor((8, 3, 64, 197), "float32"):
        with R.dataflow():
            gv = R.permute_dims(x, axes=[0, 1, 3, 2])
            R.output(gv)
        return gv


@I.ir_module
class Symbolic:
    @R.function
    def main(x: R.Tensor(("b", 3, "n", 4), "float32")) -> R.Tensor(("b", 3, 4, "n"), "float32"):
        b, n = T.int64(), T.int64()
        with R.dataflow():
            lv = R.reshape(x, R.shape([b * 3, n, 4]))
            lv1 = R.permute_dims(lv, axes=[0, 2, 1])
            gv = R.reshape(lv1, R.shape([b, 3, 4, n]))
            R.output(gv)
        return gv


@I.ir_module
class OtherSplit:
    @R.function
    def main(x: R.Tensor((2, 6, 5, 7), "float32")) -> R.Tensor((6, 2, 7, 5), "float32"):
        with R.dataflow():
            lv = R.reshape(x, R.shape([12, 5, 7]))
            lv1 = R.permute_dims(lv, axes=[0, 2, 1])
            gv = R.reshape(lv1, R.shape([6, 2, 7, 5]))
            R.output(gv)
        return gv


@I.ir_module
class FirstSplits:
    @R.function
    def main(x: R.Tensor((4, 6), "float32")) -> R.Tensor((6, 4), "float32"):
        with R.dataflow():
            lv = R.reshape(x, R.shape([2, 2, 6]))
            lv1 = R.permute_dims(lv, axes=[2, 0, 1])
            gv = R.reshape(lv1, R.shape([6, 4]))
            R.output(gv)
        return gv


def test_golden() -> None:
    tvm.ir.assert_structural_equal(SplitPermute().apply(Before), Expected)


def test_symbolic_dimensions() -> None:
    after = str(SplitPermute().apply(Symbolic))
    assert "permute_dims(x, axes=[0, 1, 3, 2])" in after and "reshape" not in after


@pytest.mark.parametrize("module", [OtherSplit, FirstSplits])
def test_left_alone(module: tvm.IRModule) -> None:
    tvm.ir.assert_structural_equal(SplitPermute().apply(module), module)


def test_same_numbers() -> None:
    x = np.random.default_rng(0).standard_normal((8, 3, 197, 64)).astype(np.float32)
    built = virtual_machine(SplitPermute().apply(Before))
    found = built["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_array_equal(found, x.transpose(0, 1, 3, 2))
