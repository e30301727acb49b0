"""Products of one-hot encodings become lookups."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
from tvm import IRModule
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.canonicalize.raise_one_hot import RaiseOneHot

WEIGHT = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
PADDED = np.concatenate([WEIGHT, np.zeros((1, 3), np.float32)])


def encoded(steps: np.ndarray, weight: np.ndarray = WEIGHT) -> IRModule:
    @I.ir_module
    class Encoded:
        @R.function
        def main(x: R.Tensor((2, 4, 1), "int32")) -> R.Tensor((2, 4, 3), "float32"):
            with R.dataflow():
                a = R.equal(x, R.const(steps))
                b = R.astype(a, "float32")
                y = R.matmul(b, R.const(weight))
                R.output(y)
            return y

    return Encoded


STEPS = np.arange(5, dtype=np.int32).reshape(1, 1, 5)


def test_golden(golden) -> None:
    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 4, 1), "int32")) -> R.Tensor((2, 4, 3), "float32"):
            with R.dataflow():
                index = R.reshape(x, (2, 4))
                low = R.greater_equal(index, R.const(0, "int32"))
                high = R.less(index, R.const(5, "int32"))
                known = R.logical_and(low, high)
                row = R.where(known, index, R.const(5, "int32"))
                y = R.take(R.const(PADDED), row, axis=0)
                R.output(y)
            return y

    golden(RaiseOneHot(), encoded(STEPS), Expected)


def test_same_numbers(execute) -> None:
    x = np.array([[0, 4, 5, -1], [2, 2, 100, 1]], np.int32)[..., None]
    before = encoded(STEPS)
    expected = execute(before, x)
    assert not expected[0, 2:].any()
    np.testing.assert_array_equal(execute(RaiseOneHot().apply(before), x), expected)


@pytest.mark.parametrize(
    "mod",
    [encoded(STEPS + 1), encoded(STEPS, np.where(WEIGHT > 1, np.inf, WEIGHT))],
    ids=["other steps", "infinite"],
)
def test_what_stays(golden, mod: IRModule) -> None:
    golden(RaiseOneHot(), mod, mod)


def test_an_encoding_that_is_read_again_stays(golden) -> None:
    @I.ir_module
    class Read:
        @R.function
        def main(x: R.Tensor((2, 4, 1), "int32")) -> R.Tensor((2, 4, 8), "float32"):
            with R.dataflow():
                a = R.equal(x, R.const(STEPS))
                b = R.astype(a, "float32")
                c = R.matmul(b, R.const(WEIGHT))
                y = R.concat((b, c), axis=2)
                R.output(y)
            return y

    golden(RaiseOneHot(), Read, Read)
