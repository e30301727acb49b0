"""Differences between the channels of a product's data move into its weight."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
from quantized_graphs import run
from tvm import IRModule, relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.quantize.affine import activation_params, weight_params
from relaxc.passes.quantize.channel_ranges import ChannelRanges
from relaxc.passes.quantize.smooth_activations import Rows, SmoothActivations, best_scales

RNG = np.random.default_rng(0)
# The first of eight channels is a hundred times as large as the others.
SIZE = np.array([100, *[1] * 7], np.float32)
DATA = RNG.standard_normal((64, 8)).astype(np.float32) * SIZE
WEIGHT = RNG.standard_normal((8, 4)).astype(np.float32)
SEEN = ChannelRanges(DATA.min(0), DATA.max(0), (DATA**2).mean(0))
ROWS = Rows((WEIGHT.astype(np.float64) ** 2).sum(1), np.abs(WEIGHT).astype(np.float64), 1)
SCALES = best_scales(SEEN, [ROWS])[0]


def smoothed(mod: IRModule, data: np.ndarray = DATA, **options: object) -> IRModule:
    return SmoothActivations(run, lambda: [[data]], **options).apply(mod)


def product(weight: np.ndarray) -> IRModule:
    @I.ir_module
    class Product:
        @R.function
        def main(x: R.Tensor((64, 8), "float32")) -> R.Tensor((64, 4), "float32"):
            with R.dataflow():
                y = R.matmul(x, R.const(weight))
                R.output(y)
            return y

    return Product


def test_an_input_is_divided(golden) -> None:
    inverse = np.asarray(1 / SCALES, np.float32).reshape(1, 8)
    moved = np.asarray(WEIGHT / (1 / SCALES).reshape(8, 1), np.float32)

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((64, 8), "float32")) -> R.Tensor((64, 4), "float32"):
            with R.dataflow():
                x_smooth = R.multiply(x, R.const(inverse))
                y = R.matmul(x_smooth, R.const(moved))
                R.output(y)
            return y

    pass_ = SmoothActivations(run, lambda: [[DATA]])
    golden(pass_, product(WEIGHT), Expected, idempotent=False)


IMAGES = RNG.standard_normal((2, 8, 6, 6)).astype(np.float32) * SIZE.reshape(8, 1, 1)
TAPS = RNG.standard_normal((8, 1, 3, 3)).astype(np.float32)


def depthwise(is_read_twice: bool) -> IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor(IMAGES.shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            a = builder.emit(relax.op.nn.silu(x))
            y = builder.emit(relax.op.nn.conv2d(a, relax.const(TAPS), padding=1, groups=8))
            out = builder.emit_output(relax.op.add(y, a) if is_read_twice else y)
        builder.emit_func_output(out)
    return builder.get()


def test_a_channel_of_a_depthwise_convolution_fills_the_range(execute) -> None:
    before = depthwise(is_read_twice=False)
    after = smoothed(before, IMAGES)
    silu, division, conv, *_ = (b.value for b in after["main"].body.blocks[0].bindings)
    assert [c.op.name for c in (silu, division, conv)] == [
        *("relax.nn.silu", "relax.multiply", "relax.nn.conv2d")
    ]
    inverse = division.args[1].value.numpy()
    np.testing.assert_allclose(conv.args[1].value.numpy() * inverse.reshape(8, 1, 1, 1), TAPS, 1e-6)
    # Large channels are those above zero; of the others, what is below counts, too.
    high = (np.maximum(IMAGES, 0).max((0, 2, 3)) * inverse.ravel()).round(3)
    assert high.max() / high.min() < 5 < SIZE[0] / 2
    np.testing.assert_allclose(execute(after, IMAGES), execute(before, IMAGES), 1e-4, 1e-4)


def test_data_of_a_convolution_that_others_read_stay(golden) -> None:
    pass_ = SmoothActivations(run, lambda: [[IMAGES]])
    golden(pass_, depthwise(is_read_twice=True), depthwise(is_read_twice=True))


def test_a_norm_takes_the_division(execute) -> None:
    gamma = SIZE.copy()

    @I.ir_module
    class Norm:
        @R.function
        def main(x: R.Tensor((64, 8), "float32")) -> R.Tensor((64, 4), "float32"):
            with R.dataflow():
                a = R.nn.layer_norm(
                    x, R.const(gamma), R.const(np.zeros(8, np.float32)), axes=[-1], epsilon=1e-5
                )
                y = R.matmul(a, R.const(WEIGHT))
                R.output(y)
            return y

    after = smoothed(Norm, DATA / SIZE)
    bindings = after["main"].body.blocks[0].bindings
    assert [b.value.op.name for b in bindings] == ["relax.nn.layer_norm", "relax.matmul"]
    left = bindings[0].value.args[1].value.numpy()
    assert left.max() / left.min() < 20
    x = DATA / SIZE
    np.testing.assert_allclose(execute(after, x), execute(Norm, x), rtol=1e-3, atol=1e-3)


def test_less_is_lost_to_rounding() -> None:
    def noise(x: np.ndarray, w: np.ndarray) -> float:
        data = activation_params(float(x.min()), float(x.max()), symmetric=False)
        weight = weight_params(w, 1)
        rounded = data.dequantize(data.quantize(x)) @ weight.dequantize(weight.quantize(w))
        return float(((rounded - DATA @ WEIGHT) ** 2).sum())

    assert noise(DATA / SCALES, WEIGHT * SCALES[:, None]) < 0.25 * noise(DATA, WEIGHT)


@pytest.mark.parametrize(
    ("data", "options"),
    [(DATA / SIZE, {}), (DATA, {"exclude": ("y",)})],
    ids=["alike", "excluded"],
)
def test_what_stays(golden, data: np.ndarray, options: dict[str, object]) -> None:
    """Channels that are alike gain nothing; what stays float needs nothing."""
    pass_ = SmoothActivations(run, lambda: [[data]], **options)
    golden(pass_, product(WEIGHT), product(WEIGHT))


def test_without_samples_nothing_changes() -> None:
    mod = product(WEIGHT)
    assert SmoothActivations(run, list).apply(mod).same_as(mod)
