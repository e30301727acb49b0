"""What has no elements is not computed."""

# mypy: ignore-errors
# ruff: noqa: F841
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from relaxc.passes.canonicalize.fold_empty import FoldEmpty


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 0), "float32"), w: R.Tensor((0, 4), "float32")):
        n = T.int64()
        with R.dataflow():
            lv = R.exp(x)
            lv1 = R.mean(lv, axis=[1], keepdims=True)
            lv2 = R.matmul(lv, w)
            gv = R.add(lv1, lv2)
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor(("n", 0), "float32"), w: R.Tensor((0, 4), "float32")):
        n = T.int64()
        with R.dataflow():
            lv = R.broadcast_to(R.const(0.0, "float32"), R.shape([n, 0]))
            lv1 = R.broadcast_to(R.const(float("nan"), "float32"), R.shape([n, 1]))
            lv2 = R.broadcast_to(R.const(0.0, "float32"), R.shape([n, 4]))
            gv = R.add(lv1, lv2)
            R.output(gv)
        return gv


@I.ir_module
class Full:
    @R.function
    def main(x: R.Tensor(("n", 3), "float32")):
        with R.dataflow():
            lv = R.exp(x)
            gv = R.mean(lv, axis=[0])
            R.output(gv)
        return gv


def test_rewrites(golden: Callable[..., None]) -> None:
    golden(FoldEmpty(), Before, Expected)


def test_leaves_what_may_have_elements_alone(golden: Callable[..., None]) -> None:
    golden(FoldEmpty(), Full, Full)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    x, w = np.zeros((2, 0), np.float32), np.zeros((0, 4), np.float32)
    assert np.isnan(execute(FoldEmpty().apply(Before), x, w)).all()
