"""Integers that make up for each other's errors on the data of their layer."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quantized_graphs import INTEGERS, PARAMS, Float, Quantized, run
from tvm import IRModule
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.prune.products import products_of
from relaxc.passes.prune.segments import bindings_of, piece
from relaxc.passes.quantize.affine import QuantParams
from relaxc.passes.quantize.fit_rounding import FitRounding, fitted
from relaxc.passes.quantize.layer_errors import layer_errors
from relaxc.passes.quantize.second_moments import Layer, second_moments


def samples(count: int = 4) -> list[list[np.ndarray]]:
    """Channels depend on each other, as they do in networks."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((4, 4)) @ np.diag([1, 0.5, 0.1, 0.1])
    return [
        [np.tensordot(mix, rng.uniform(-1, 1, (1, 4, 8, 8)), (1, 1)).swapaxes(0, 1).astype("f4")]
        for _ in range(count)
    ]


def pair(integers: np.ndarray) -> tuple[IRModule, IRModule]:
    """A layer of three channels, float and rounded."""
    weight = np.array([1.27, 0.004, 0.004], np.float32).reshape(1, 3, 1, 1)
    step, zero = np.array([0.01], np.float32), np.zeros(1, np.int8)

    @I.ir_module
    class Teacher:
        @R.function
        def main(x: R.Tensor((1, 3, 1, 4), "float32")) -> R.Tensor((1, 1, 1, 4), "float32"):
            with R.dataflow():
                y = R.nn.conv2d(x, R.const(weight))
                R.output(y)
            return y

    @I.ir_module
    class Rounded:
        @R.function
        def main(x: R.Tensor((1, 3, 1, 4), "float32")) -> R.Tensor((1, 1, 1, 4), "float32"):
            with R.dataflow():
                q = R.quantize(x, R.const(0.5, "float32"), R.const(128, "uint8"), out_dtype="uint8")
                x_q = R.dequantize(q, R.const(0.5, "float32"), R.const(128, "uint8"))
                w = R.dequantize(R.const(integers), R.const(step), R.const(zero), axis=0)
                y = R.nn.conv2d(x_q, w)
                R.output(y)
            return y

    return Teacher, Rounded


def test_golden(golden) -> None:
    """Two channels that are always alike get one step together, which is nearer than none."""
    data = np.array([[3, -3, 3, -3], [1, 1, -1, -1], [1, 1, -1, -1]], np.float32)
    teacher, before = pair(np.array([127, 0, 0], np.int8).reshape(1, 3, 1, 1))
    _, expected = pair(np.array([127, 0, 1], np.int8).reshape(1, 3, 1, 1))
    given = [[data.reshape(1, 3, 1, 4)]]
    golden(FitRounding(lambda: teacher, run, lambda: given), before, expected)


def test_same_numbers_but_for_less_noise() -> None:
    after = FitRounding(lambda: Float, run, samples).apply(Quantized)
    nearest = layer_errors(Float, Quantized, run, samples())
    fit = layer_errors(Float, after, run, samples())
    assert [error.node for error in fit] == ["a", "d"]
    assert all(b.sqnr_db > a.sqnr_db for a, b in zip(nearest, fit))
    changed = [b for b in bindings_of(after) if b.var.name in ("a_w", "d_w")]
    for binding in changed:
        integers, scale, zero = (arg.value.numpy() for arg in binding.value.args)
        assert (integers.dtype, scale.dtype, zero.dtype) == (np.int8, np.float32, np.int8)
        assert (np.abs(integers.astype(int)) <= 127).all()
        # Accumulators are clipped as if scales were positive.
        assert (scale > 0).all()


def test_without_samples_nothing_changes() -> None:
    assert FitRounding(lambda: Float, run, list).apply(Quantized).same_as(Quantized)


def test_what_is_known_is_not_measured_again() -> None:
    runs: list[int] = []

    def counted(mod, arguments):
        runs.append(1)
        return run(mod, arguments)

    pass_ = FitRounding(lambda: Float, counted, samples)
    pass_.apply(Quantized)
    pass_.apply(Quantized)
    assert len(runs) == 1


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_moments_are_those_of_what_a_convolution_reads(groups: int) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((4, 4 // groups, 3, 3)).astype(np.float32)

    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((2, 4, 5, 6), "float32")) -> R.Tensor((2, 4, 3, 3), "float32"):
            with R.dataflow():
                y = R.nn.conv2d(x, R.const(weight), strides=2, padding=1, groups=groups)
                R.output(y)
            return y

    (product,) = products_of(Module, grouped=True)
    data = (rng.integers(-20, 20, (2, 4, 5, 6)) / 4).astype(np.float32)
    params = QuantParams(np.array(0.25, np.float32), np.array(128, np.uint8))
    layer = Layer(product, params)
    ((_, moments),) = second_moments(Module, [layer], run, [[data]], centered=False)
    # The mean square of the result is a quadratic form of the weight.
    (result,) = next(run(_tuple(Module), [[data]]))
    squares = (result.astype(np.float64) ** 2).mean((0, 2, 3))
    matrix, width = product.matrix(), 4 // groups
    for column in range(4):
        w = matrix[:, column]
        assert w @ moments[column // width] @ w == pytest.approx(squares[column], rel=1e-4)


def _tuple(mod: IRModule) -> IRModule:
    return piece(mod, bindings_of(mod), [bindings_of(mod)[-1].var])[0]


def test_weights_of_zero_stay_zero() -> None:
    (product, _) = products_of(Float)
    weight = product.matrix().copy()
    weight[1] = 0
    call = product.with_matrix(weight)
    data = np.random.default_rng(2).standard_normal((1, 4, 1)) @ np.ones((1, 1, 4))
    moments = data @ data.transpose(0, 2, 1) + 0.1 * np.eye(4)
    integers, scales = fitted(replace(product, call=call), moments)
    assert not integers[1].any() and integers[0].any()
    assert scales.shape == (4,) and INTEGERS.shape[0] == PARAMS.scale.size
