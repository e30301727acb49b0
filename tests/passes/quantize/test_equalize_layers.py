"""Consecutive layers share the range of their weights."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
from tvm import IRModule
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.quantize.equalize_layers import EqualizeLayers
from relaxc.passes.quantize.rescale import reader_axis


def weight(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, np.float32)[:, :, None, None]


FIRST, BIAS = weight([[4, 2], [1, 1]]), np.array([8, 1], np.float32).reshape(1, 2, 1, 1)
SECOND = weight([[1, -4], [0, 2]])


def pair(first: np.ndarray, bias: np.ndarray, second: np.ndarray) -> IRModule:
    @I.ir_module
    class Pair:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 2, 2), "float32"):
            with R.dataflow():
                a = R.nn.conv2d(x, R.const(first))
                b = R.add(a, R.const(bias))
                c = R.nn.relu(b)
                d = R.nn.max_pool2d(c, pool_size=[2, 2], strides=[2, 2])
                y = R.nn.conv2d(d, R.const(second))
                R.output(y)
            return y

    return Pair


def test_golden(golden) -> None:
    """Ranges are 4 and 1 before, 1 and 4 after: sqrt(4 / 1) and sqrt(1 / 4) equalize them."""
    expected = pair(
        weight([[2, 1], [2, 2]]),
        np.array([4, 2], np.float32).reshape(1, 2, 1, 1),
        weight([[2, -2], [0, 1]]),
    )
    golden(EqualizeLayers(), pair(FIRST, BIAS, SECOND), expected)


def test_a_value_that_something_else_reads_stays(golden) -> None:
    @I.ir_module
    class Read:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                a = R.nn.conv2d(x, R.const(FIRST))
                b = R.nn.conv2d(a, R.const(SECOND))
                y = R.add(a, b)
                R.output(y)
            return y

    golden(EqualizeLayers(), Read, Read)


def test_clipping_does_not_scale(golden) -> None:
    @I.ir_module
    class Clipped:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                a = R.nn.conv2d(x, R.const(FIRST))
                b = R.clip(a, 0, 6)
                y = R.nn.conv2d(b, R.const(SECOND))
                R.output(y)
            return y

    golden(EqualizeLayers(), Clipped, Clipped)


def test_same_numbers_through_a_depthwise_convolution(execute) -> None:
    rng = np.random.default_rng(0)
    spread = np.geomspace(1e-2, 1e2, 6, dtype=np.float32).reshape(6, 1, 1, 1)
    first = spread * rng.standard_normal((6, 3, 1, 1)).astype(np.float32)
    depthwise = rng.standard_normal((6, 1, 3, 3)).astype(np.float32)
    last = rng.standard_normal((4, 6, 1, 1)).astype(np.float32)

    @I.ir_module
    class Separable:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                a = R.nn.conv2d(x, R.const(first))
                b = R.nn.relu(a)
                c = R.nn.conv2d(b, R.const(depthwise), groups=6)
                d = R.nn.relu(c)
                y = R.nn.conv2d(d, R.const(last))
                R.output(y)
            return y

    after = EqualizeLayers().apply(Separable)
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    before = execute(Separable, x)
    np.testing.assert_allclose(execute(after, x), before, atol=1e-4 * np.abs(before).max())
    weights = [
        b.value.args[1].value.numpy()
        for b in after["main"].body.blocks[0].bindings
        if reader_axis(b.value) is not None
    ]
    ranges = [np.abs(w).max((1, 2, 3)) for w in weights[:2]]
    np.testing.assert_allclose(ranges[0], ranges[1], rtol=0.1)
