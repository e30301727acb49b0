"""Rows of weights that are multiplied by much lose less to rounding."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
from quantized_graphs import run
from tvm import IRModule
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.quantize.quantize_weights import QuantizeWeights
from relaxc.passes.quantize.scale_rows import ScaleRows, best_exponent

RNG = np.random.default_rng(0)
# Two of sixteen channels are large.
GAIN = np.array([20, 30, *[1] * 14], np.float32)
DATA = RNG.standard_normal((64, 16)).astype(np.float32)
WEIGHT, OTHER = (RNG.standard_normal((16, 4)).astype(np.float32) for _ in range(2))
NORM = DATA / np.sqrt((DATA**2).mean(-1, keepdims=True) + 1e-5) * GAIN
MOMENTS = NORM.astype(np.float64).T @ NORM / len(NORM)


def network(gain: np.ndarray, weight: np.ndarray, other: np.ndarray) -> IRModule:
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((64, 16), "float32")) -> R.Tensor((64, 4), "float32"):
            with R.dataflow():
                n = R.nn.rms_norm(x, R.const(gain), axes=[-1], epsilon=1e-5)
                a = R.matmul(n, R.const(weight))
                b = R.matmul(n, R.const(other))
                y = R.add(a, b)
                R.output(y)
            return y

    return Module


def scaling(group: int | None = 16, samples: list[list[np.ndarray]] | None = None) -> ScaleRows:
    names = QuantizeWeights("int4", group).variables
    return ScaleRows(names, "int4", group, run, lambda: [[DATA]] if samples is None else samples)


def test_golden(golden) -> None:
    """The norm takes the division, both products the scales."""
    scales, _ = best_exponent([WEIGHT, OTHER], MOMENTS, 16, "int4")
    weight, other = ((w / (1 / scales)[:, None]).astype(np.float32) for w in (WEIGHT, OTHER))
    after = scaling().apply(network(GAIN, WEIGHT, OTHER))
    found = [b.value for b in after["main"].body.blocks[0].bindings]
    expected = network((GAIN / scales).astype(np.float32), weight, other)
    wanted = [b.value for b in expected["main"].body.blocks[0].bindings]
    for ours, theirs in zip(found[:3], wanted[:3]):
        np.testing.assert_allclose(ours.args[1].value.numpy(), theirs.args[1].value.numpy(), 1e-4)
    golden(scaling(), network(GAIN, WEIGHT, OTHER), after, idempotent=False)


def test_same_numbers(execute) -> None:
    before = network(GAIN, WEIGHT, OTHER)
    wanted = execute(before, DATA)
    after = scaling().apply(before)
    np.testing.assert_allclose(execute(after, DATA), wanted, rtol=1e-3, atol=1e-3)
    errors = [
        np.abs(execute(QuantizeWeights("int4", 16).apply(mod), DATA) - wanted).mean()
        for mod in (before, after)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_a_factor_of_the_data_takes_the_division(execute) -> None:
    up = (RNG.standard_normal((16, 16)) * GAIN).astype(np.float32)

    @I.ir_module
    class Gated:
        @R.function
        def main(x: R.Tensor((64, 16), "float32")) -> R.Tensor((64, 4), "float32"):
            with R.dataflow():
                g = R.nn.silu(x)
                u = R.matmul(x, R.const(up))
                h = R.multiply(g, u)
                y = R.matmul(h, R.const(WEIGHT))
                R.output(y)
            return y

    after = scaling().apply(Gated)
    bindings = after["main"].body.blocks[0].bindings
    assert [b.value.op.name for b in bindings] == [
        *("relax.nn.silu", "relax.matmul", "relax.multiply", "relax.matmul")
    ]
    assert not np.array_equal(bindings[1].value.args[1].value.numpy(), up)
    np.testing.assert_allclose(execute(after, DATA), execute(Gated, DATA), rtol=1e-3, atol=1e-3)


def test_leaves_data_alone_that_nothing_can_divide(golden) -> None:
    @I.ir_module
    class Plain:
        @R.function
        def main(x: R.Tensor((64, 16), "float32")) -> R.Tensor((64, 4), "float32"):
            with R.dataflow():
                y = R.matmul(x, R.const(WEIGHT))
                R.output(y)
            return y

    golden(scaling(), Plain, Plain)


def test_without_samples_nothing_changes(golden) -> None:
    before = network(GAIN, WEIGHT, OTHER)
    golden(scaling(samples=[]), before, before)
