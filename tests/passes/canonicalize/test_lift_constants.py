"""Constants become parameters, and travel in an attribute."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.canonicalize.lift_constants import WEIGHTS, LiftConstants

A = np.arange(12, dtype=np.float32).reshape(4, 3)
TWIN = A.copy()
OTHER = A.reshape(3, 4)


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32")) -> R.Tensor(("n", 4), "float32"):
        with R.dataflow():
            lv = R.matmul(x, R.const(A))
            lv1 = R.matmul(x, R.const(TWIN))
            lv2 = R.add(lv, lv1)
            gv = R.matmul(lv2, R.const(OTHER))
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor(("n", 4), "float32"),
        weight_0: R.Tensor((4, 3), "float32"),
        weight_1: R.Tensor((3, 4), "float32"),
    ) -> R.Tensor(("n", 4), "float32"):
        with R.dataflow():
            lv = R.matmul(x, weight_0)
            lv1 = R.matmul(x, weight_0)
            lv2 = R.add(lv, lv1)
            gv = R.matmul(lv2, weight_1)
            R.output(gv)
        return gv


def test_equal_constants_share_a_parameter() -> None:
    text = Before.script()
    after = LiftConstants().apply(Before)
    relax.analysis.well_formed(after)
    tvm.ir.assert_structural_equal(after["main"].without_attr(WEIGHTS), Expected["main"])
    assert Before.script() == text


def test_the_values_travel_in_the_order_of_the_parameters() -> None:
    values = [w.numpy() for w in LiftConstants().apply(Before)["main"].attrs[WEIGHTS]]
    np.testing.assert_array_equal(values[0], A)
    np.testing.assert_array_equal(values[1], OTHER)


def test_a_second_run_changes_nothing() -> None:
    once = LiftConstants().apply(Before)
    twice = LiftConstants().apply(once)
    tvm.ir.assert_structural_equal(twice, once)
    assert len(twice["main"].attrs[WEIGHTS]) == 2


def test_a_module_without_constants_gets_an_empty_list() -> None:
    after = LiftConstants().apply(Expected)
    assert len(after["main"].attrs[WEIGHTS]) == 0
