"""Weights of products become integers, arithmetic stays float."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.errors import OptionError
from relaxc.passes.quantize.quantize_weights import QuantizeWeights
from relaxc.passes.quantize.weight_kinds import round_groups

WEIGHT = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
INTEGERS, SCALE = round_groups(np.ascontiguousarray(WEIGHT.T).reshape(-1, 8), "int4")
ZERO = np.zeros(6, np.int8)


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 16), "float32"), z: R.Tensor((3, 3), "float32")) -> R.Tensor(
        ("n", 3), "float32"
    ):
        with R.dataflow():
            a = R.matmul(x, R.const(WEIGHT))
            b = R.matmul(a, z)
            R.output(b)
        return b


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor(("n", 16), "float32"), z: R.Tensor((3, 3), "float32")) -> R.Tensor(
        ("n", 3), "float32"
    ):
        with R.dataflow():
            w = R.dequantize(R.const(INTEGERS), R.const(SCALE), R.const(ZERO), axis=0)
            r = R.reshape(w, (3, 16))
            p = R.permute_dims(r)
            a = R.matmul(x, p)
            b = R.matmul(a, z)
            R.output(b)
        return b


def test_constant_weights_are_rounded() -> None:
    text = Before.script()
    after = QuantizeWeights("int4", 8).apply(Before)
    tvm.ir.assert_structural_equal(after, Expected)
    tvm.ir.assert_structural_equal(QuantizeWeights("int4", 8).apply(after), Expected)
    assert Before.script() == text


def test_rows_that_fill_no_groups_stay_float() -> None:
    tvm.ir.assert_structural_equal(QuantizeWeights("int4", 32).apply(Before), Before)


def test_excluded_nodes_stay_float() -> None:
    tvm.ir.assert_structural_equal(QuantizeWeights("int8", exclude=("a|c",)).apply(Before), Before)
    with pytest.raises(OptionError, match="no node has such a name"):
        QuantizeWeights("int8", exclude=("nothing",)).apply(Before)


@pytest.mark.parametrize(("kind", "step"), [("int4", 1 / 8), ("int8", 1 / 127)])
def test_rounding_errs_by_half_a_step(kind: str, step: float) -> None:
    rows = np.random.default_rng(1).standard_normal((50, 32)).astype(np.float32)
    rows[0] = 0
    integers, scale = round_groups(rows, kind)
    assert integers.dtype == np.int8 and scale.dtype == np.float32
    largest = np.abs(rows).max(axis=1, keepdims=True)
    error = np.abs(integers * scale[:, None] - rows)
    # With four bits, what opposes the largest element may be cut off at 7.
    clipped = integers == 7 if kind == "int4" else np.zeros_like(integers, bool)
    assert (error <= largest * step * 0.5001)[~clipped].all()
    assert (error <= largest * step)[clipped].all()


def test_same_numbers_as_the_rounded_weight(execute) -> None:
    x = np.random.default_rng(2).standard_normal((2, 16)).astype(np.float32)
    z = np.eye(3, dtype=np.float32)
    integers, scale = round_groups(np.ascontiguousarray(WEIGHT.T), "int8")
    wanted = x @ (integers * scale[:, None]).T
    np.testing.assert_allclose(
        execute(QuantizeWeights("int8").apply(Before), x, z), wanted, rtol=1e-5
    )


def test_float8_errs_by_a_share_of_each_number() -> None:
    rows = np.random.default_rng(3).standard_normal((50, 32)).astype(np.float32)
    rows[0] = 0
    numbers, scale = round_groups(rows, "float8")
    assert numbers.dtype.name == "float8_e4m3fn" and scale.dtype == np.float32
    error = np.abs(numbers.astype(np.float32) * scale[:, None] - rows)
    # Three bits of mantissa; denormals are multiples of 2**-9.
    assert (error <= np.maximum(np.abs(rows) / 16, scale[:, None] * 2**-10) * 1.0001).all()


def test_weights_of_float8(execute) -> None:
    x = np.random.default_rng(2).standard_normal((2, 16)).astype(np.float32)
    z = np.eye(3, dtype=np.float32)
    after = QuantizeWeights("float8").apply(Before)
    first = after["main"].body.blocks[0].bindings[0].value
    assert first.op.name == "relax.dequantize"
    assert first.args[0].ty.dtype.dtype == "float8_e4m3fn"
    numbers, scale = round_groups(np.ascontiguousarray(WEIGHT.T), "float8")
    wanted = x @ (numbers.astype(np.float32) * scale[:, None]).T
    np.testing.assert_allclose(execute(after, x, z), wanted, rtol=1e-5)
