"""Tables of embeddings as int8."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.quantize.quantize_tables import QuantizeTables, pack_rows

# Rows of one integer each, so that rounding is exact: 127 * (row + 1).
TABLE = np.full((1024, 32), 127, np.float32) * (np.arange(1024, dtype=np.float32)[:, None] + 1)
INTEGERS = np.full((1024, 32), 127, np.int8)
SCALES = np.arange(1024, dtype=np.float32)[:, None] + 1


@I.ir_module
class Before:
    @R.function
    def main(i: R.Tensor((2, 3), "int64")) -> R.Tensor((2, 3, 32), "float32"):
        with R.dataflow():
            y = R.take(R.const(TABLE), i, axis=0, mode="clip")
            z = R.nn.relu(y)
            R.output(z)
        return z


@I.ir_module
class Expected:
    @R.function
    def main(i: R.Tensor((2, 3), "int64")) -> R.Tensor((2, 3, 32), "float32"):
        with R.dataflow():
            q = R.take(R.const(INTEGERS), i, axis=0, mode="clip")
            r = R.astype(q, "float32")
            s = R.take(R.const(SCALES), i, axis=0, mode="clip")
            y = R.multiply(r, s)
            z = R.nn.relu(y)
            R.output(z)
        return z


def test_golden(golden: Callable[..., None]) -> None:
    golden(QuantizeTables(), Before, Expected)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    noise = np.random.default_rng(0).standard_normal((1024, 32)).astype(np.float32)

    @I.ir_module
    class Noise:
        @R.function
        def main(i: R.Tensor((4,), "int64")) -> R.Tensor((4, 32), "float32"):
            with R.dataflow():
                y = R.take(R.const(noise), i, axis=0)
                R.output(y)
            return y

    rows = np.array([0, 1023, 7, 7])
    after = QuantizeTables().apply(Noise)
    # Half a step of a row's scale.
    bound = np.abs(noise[rows]).max(axis=1, keepdims=True) / 127 / 2 * 1.001
    assert (np.abs(execute(after, rows) - noise[rows]) <= bound).all()


def test_large_tables_take_four_bits(execute: Callable[..., np.ndarray]) -> None:
    noise = np.random.default_rng(0).standard_normal((8192, 128)).astype(np.float32)
    noise[5] = 0

    @I.ir_module
    class Noise:
        @R.function
        def main(i: R.Tensor(("n", 2), "int64")):
            with R.dataflow():
                y = R.take(R.const(noise), i, axis=0)
                R.output(y)
            return y

    rows = np.array([[0, 8191], [7, 7], [5, 1]])
    after = QuantizeTables(bits=4).apply(Noise)
    packed, scale = pack_rows(noise)
    assert packed.nbytes + scale.nbytes < 0.15 * noise.nbytes
    found = execute(after, rows)
    assert found.shape == (3, 2, 128) and not found[2, 0].any()
    error = found - noise[rows]
    assert (error**2).sum() < 0.012 * (noise[rows] ** 2).sum()
    # Small tables keep eight.
    tvm.ir.assert_structural_equal(QuantizeTables(bits=4).apply(Before), Expected)


def small(table: np.ndarray, axis: int) -> tvm.IRModule:
    @I.ir_module
    class Module:
        @R.function
        def main(i: R.Tensor((2,), "int64")):
            with R.dataflow():
                y = R.take(R.const(table), i, axis=axis)
                R.output(y)
            return y

    return Module


@pytest.mark.parametrize(
    ("table", "axis"),
    [
        (np.ones((8, 32), np.float32), 0),  # little to gain
        (np.ones((4096, 4), np.float32), 0),  # as many scales as numbers, nearly
        (np.ones((1024, 32), np.float32), 1),  # columns
        (np.ones((1024, 32), np.int32), 0),
        (np.ones((1024, 2, 32), np.float32), 0),
    ],
)
def test_left_alone(table: np.ndarray, axis: int) -> None:
    before = small(table, axis)
    tvm.ir.assert_structural_equal(QuantizeTables().apply(before), before)


def test_excluded() -> None:
    tvm.ir.assert_structural_equal(QuantizeTables(("y",)).apply(Before), Before)
