"""Batch norms disappear into the convolution before them."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tvm import IRModule, relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.canonicalize.fold_batch_norm import FoldBatchNorm


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


W, B = random(4, 3, 3, 3), random(1, 4, 1, 1)
GAMMA, BETA, MEAN = random(4), random(4) + 1, random(4) + 2
VARIANCE = np.abs(random(4)) + np.float32(0.5)
EPSILON = 1e-5
SCALE = GAMMA / np.sqrt(VARIANCE.astype(np.float64) + EPSILON)
FOLDED = (W * SCALE.reshape(4, 1, 1, 1)).astype(np.float32)
OFFSET = (BETA - MEAN * SCALE).astype(np.float32).reshape(1, 4, 1, 1)
BIAS = B.reshape(4).astype(np.float64)
OFFSET_WITH_BIAS = ((BIAS - MEAN) * SCALE + BETA).astype(np.float32).reshape(1, 4, 1, 1)


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 3, 8, 8), "float32")) -> R.Tensor(("n", 4, 8, 8), "float32"):
        with R.dataflow():
            lv = R.nn.conv2d(x, R.const(W), padding=[1, 1, 1, 1])
            lv1 = R.nn.batch_norm(
                lv, R.const(GAMMA), R.const(BETA), R.const(MEAN), R.const(VARIANCE), axis=1
            )
            gv = lv1[0]
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor(("n", 3, 8, 8), "float32")) -> R.Tensor(("n", 4, 8, 8), "float32"):
        with R.dataflow():
            lv = R.nn.conv2d(x, R.const(FOLDED), padding=[1, 1, 1, 1])
            gv = R.add(lv, R.const(OFFSET))
            R.output(gv)
        return gv


@I.ir_module
class BeforeWithBias:
    @R.function
    def main(x: R.Tensor(("n", 3, 8, 8), "float32")) -> R.Tensor(("n", 4, 8, 8), "float32"):
        with R.dataflow():
            lv = R.nn.conv2d(x, R.const(W), padding=[1, 1, 1, 1])
            lv1 = R.add(lv, R.const(B))
            lv2 = R.nn.batch_norm(
                lv1, R.const(GAMMA), R.const(BETA), R.const(MEAN), R.const(VARIANCE), axis=1
            )
            gv = lv2[0]
            R.output(gv)
        return gv


@I.ir_module
class ExpectedWithBias:
    @R.function
    def main(x: R.Tensor(("n", 3, 8, 8), "float32")) -> R.Tensor(("n", 4, 8, 8), "float32"):
        with R.dataflow():
            lv = R.nn.conv2d(x, R.const(FOLDED), padding=[1, 1, 1, 1])
            gv = R.add(lv, R.const(OFFSET_WITH_BIAS))
            R.output(gv)
        return gv


@I.ir_module
class UsedTwice:
    @R.function
    def main(x: R.Tensor(("n", 3, 8, 8), "float32")) -> R.Tensor(("n", 4, 8, 8), "float32"):
        with R.dataflow():
            lv = R.nn.conv2d(x, R.const(W), padding=[1, 1, 1, 1])
            lv1 = R.nn.batch_norm(
                lv, R.const(GAMMA), R.const(BETA), R.const(MEAN), R.const(VARIANCE), axis=1
            )
            lv2 = lv1[0]
            gv = R.add(lv, lv2)
            R.output(gv)
        return gv


@I.ir_module
class WeightIsNoConstant:
    @R.function
    def main(
        x: R.Tensor(("n", 3, 8, 8), "float32"), w: R.Tensor((4, 3, 3, 3), "float32")
    ) -> R.Tensor(("n", 4, 6, 6), "float32"):
        with R.dataflow():
            lv = R.nn.conv2d(x, w)
            lv1 = R.nn.batch_norm(
                lv, R.const(GAMMA), R.const(BETA), R.const(MEAN), R.const(VARIANCE), axis=1
            )
            gv = lv1[0]
            R.output(gv)
        return gv


@I.ir_module
class OtherAxis:
    @R.function
    def main(x: R.Tensor(("n", 3, 8, 8), "float32")) -> R.Tensor(("n", 4, 6, 4), "float32"):
        with R.dataflow():
            lv = R.nn.conv2d(x, R.const(random(4, 3, 3, 5)))
            lv1 = R.nn.batch_norm(
                lv, R.const(GAMMA), R.const(BETA), R.const(MEAN), R.const(VARIANCE), axis=3
            )
            gv = lv1[0]
            R.output(gv)
        return gv


def test_without_bias(golden: Callable[..., None]) -> None:
    golden(FoldBatchNorm(), Before, Expected)


def test_with_bias(golden: Callable[..., None]) -> None:
    golden(FoldBatchNorm(), BeforeWithBias, ExpectedWithBias)


@pytest.mark.parametrize("mod", [UsedTwice, WeightIsNoConstant, OtherAxis, Expected])
def test_leaves_alone(golden: Callable[..., None], mod: IRModule) -> None:
    golden(FoldBatchNorm(), mod, mod)


@pytest.mark.parametrize("mod", [Before, BeforeWithBias])
def test_same_numbers(execute: Callable[..., np.ndarray], mod: IRModule) -> None:
    x = random(2, 3, 8, 8)
    before = execute(relax.transform.DecomposeOpsForInference()(mod), x)
    after = execute(FoldBatchNorm().apply(mod), x)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
