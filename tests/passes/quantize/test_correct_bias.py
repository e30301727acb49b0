"""Biases make up for what rounding adds in the mean."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
from quantized_graphs import Float, Quantized, run
from tvm import IRModule
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.prune.segments import bindings_of, piece
from relaxc.passes.quantize.correct_bias import CorrectBias
from relaxc.passes.quantize.layer_errors import LayerErrors, layer_errors

BIAS = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)


def samples(count: int = 4) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [[rng.uniform(-1, 2, (1, 4, 8, 8)).astype(np.float32)] for _ in range(count)]


def value(mod: IRModule, name: str, data: list[np.ndarray]) -> np.ndarray:
    """What a binding holds."""
    var = next(b.var for b in bindings_of(mod) if b.var.name == name)
    module, _ = piece(mod, bindings_of(mod), [var])
    return next(run(module, [data]))[0]


@pytest.fixture(scope="module")
def corrected() -> IRModule:
    return CorrectBias(LayerErrors(lambda: Float, run, samples)).apply(Quantized)


def test_golden(golden) -> None:
    """A bias takes the correction; a layer without one gets it, and its old value another name."""
    half, quarter = (np.full((4, 4, 1, 1), n, np.float32) for n in (0.5, 0.25))

    def rounded(array):
        return R.dequantize(
            R.const((array * 4).astype(np.int8)),
            R.const(np.full(4, 0.25, np.float32)),
            R.const(np.zeros(4, np.int8)),
            axis=0,
        )

    @I.ir_module
    class Teacher:
        @R.function
        def main(x: R.Tensor((1, 4, 2, 2), "float32")) -> R.Tensor((1, 4, 2, 2), "float32"):
            with R.dataflow():
                a = R.nn.conv2d(x, R.const(half))
                b = R.add(a, R.const(BIAS))
                c = R.nn.conv2d(x, R.const(half))
                y = R.multiply(b, c)
                R.output(y)
            return y

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 4, 2, 2), "float32")) -> R.Tensor((1, 4, 2, 2), "float32"):
            with R.dataflow():
                q = R.quantize(x, R.const(0.25, "float32"), R.const(0, "uint8"), out_dtype="uint8")
                x_q = R.dequantize(q, R.const(0.25, "float32"), R.const(0, "uint8"))
                w = rounded(quarter)
                a = R.nn.conv2d(x_q, w)
                b = R.add(a, R.const(BIAS))
                c = R.nn.conv2d(x_q, w)
                y = R.multiply(b, c)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 4, 2, 2), "float32")) -> R.Tensor((1, 4, 2, 2), "float32"):
            with R.dataflow():
                q = R.quantize(x, R.const(0.25, "float32"), R.const(0, "uint8"), out_dtype="uint8")
                x_q = R.dequantize(q, R.const(0.25, "float32"), R.const(0, "uint8"))
                w = rounded(quarter)
                a = R.nn.conv2d(x_q, w)
                b = R.add(a, R.const(BIAS + 1))
                c_raw = R.nn.conv2d(x_q, w)
                c = R.subtract(c_raw, R.const(np.full((4, 1, 1), -1, np.float32)))
                y = R.multiply(b, c)
                R.output(y)
            return y

    # Of four ones times 0.5, rounding leaves four times 0.25: one is missing.
    data = [[np.ones((1, 4, 2, 2), np.float32)]]
    golden(
        CorrectBias(LayerErrors(lambda: Teacher, run, lambda: data)),
        Before,
        Expected,
        idempotent=False,
    )


def test_the_mean_error_of_the_first_layer_is_gone(corrected: IRModule) -> None:
    errors = {name: [] for name in ("before", "after")}
    for data in samples():
        truth = value(Float, "a", data)
        errors["before"].append(value(Quantized, "a", data) - truth)
        errors["after"].append(value(corrected, "a", data) - truth)
    means = {k: np.abs(np.mean(v, axis=(0, 1, 3, 4))).max() for k, v in errors.items()}
    assert means["after"] < 1e-5 < means["before"]


def test_a_bias_takes_the_correction() -> None:
    @I.ir_module
    class Teacher:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                a = R.nn.conv2d(x, R.const(np.full((4, 4, 1, 1), 0.3, np.float32)))
                y = R.add(a, R.const(BIAS))
                R.output(y)
            return y

    @I.ir_module
    class Rounded:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                q = R.quantize(x, R.const(0.1, "float32"), R.const(0, "uint8"), out_dtype="uint8")
                x_q = R.dequantize(q, R.const(0.1, "float32"), R.const(0, "uint8"))
                w = R.dequantize(
                    R.const(np.full((4, 4, 1, 1), 1, np.int8)),
                    R.const(np.full(4, 0.25, np.float32)),
                    R.const(np.zeros(4, np.int8)),
                    axis=0,
                )
                a = R.nn.conv2d(x_q, w)
                y = R.add(a, R.const(BIAS))
                R.output(y)
            return y

    data = [[np.full((1, 4, 8, 8), 1.0, np.float32)]]
    after = CorrectBias(LayerErrors(lambda: Teacher, run, lambda: data)).apply(Rounded)
    # 4 channels of 1.0 times 0.3, of which rounding leaves 0.25.
    result = next(b for b in after["main"].body.blocks[0].bindings if b.var.name == "y").value
    np.testing.assert_allclose(result.args[1].value.numpy(), BIAS + 0.2, atol=1e-6)
    assert len(after["main"].body.blocks[0].bindings) == 5


def test_without_samples_nothing_changes() -> None:
    assert CorrectBias(LayerErrors(lambda: Float, run, list)).apply(Quantized).same_as(Quantized)


def test_errors_of_layers() -> None:
    first, second = layer_errors(Float, Quantized, run, samples())
    assert (first.node, second.node) == ("a", "d")
    rows = [(value(Float, "a", s), value(Quantized, "a", s)) for s in samples()]
    truth, rounded = (np.concatenate(side) for side in zip(*rows))
    noise, signal = ((rounded - truth) ** 2).sum(), (truth**2).sum()
    assert first.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.01)
    cosine = (truth * rounded).sum() / np.sqrt(signal * (rounded**2).sum())
    assert first.cosine == pytest.approx(cosine, abs=1e-5)
