"""Written-out activations become one operator each."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tvm.script import ir as I  # noqa: N812
from tvm.script import relax as R  # noqa: N812

from relaxc.passes.canonicalize.raise_activations import RaiseActivations


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((2, 64), "float32")):
        with R.dataflow():
            a = R.divide(x, R.const(1.4142135, "float32"))
            b = R.erf(a)
            c = R.add(b, R.const(1.0, "float32"))
            d = R.multiply(R.const(0.5, "float32"), c)
            y = R.multiply(x, d)
            s = R.sigmoid(y)
            z = R.multiply(y, s)
            R.output(z)
        return z


@I.ir_module
class Nested:
    """(x * 0.5) * (1 + erf(0.70710677 * x))."""

    @R.function
    def main(x: R.Tensor((2, 64), "float32")):
        with R.dataflow():
            h = R.multiply(x, R.const(0.5, "float32"))
            a = R.multiply(R.const(0.70710677, "float32"), x)
            b = R.erf(a)
            c = R.add(R.const(1.0, "float32"), b)
            y = R.multiply(h, c)
            s = R.sigmoid(y)
            z = R.multiply(s, y)
            R.output(z)
        return z


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((2, 64), "float32")):
        with R.dataflow():
            y = R.nn.gelu(x)
            z = R.nn.silu(y)
            R.output(z)
        return z


@I.ir_module
class Others:
    """Another scale, another root, a sigmoid of something else, and one that is read twice."""

    @R.function
    def main(x: R.Tensor((2, 64), "float32"), t: R.Tensor((2, 64), "float32")):
        with R.dataflow():
            a = R.divide(x, R.const(1.4142135, "float32"))
            b = R.erf(a)
            c = R.add(b, R.const(1.0, "float32"))
            y = R.multiply(x, c)
            e = R.divide(y, R.const(1.41, "float32"))
            f = R.erf(e)
            g = R.add(f, R.const(1.0, "float32"))
            h = R.multiply(R.const(0.5, "float32"), g)
            k = R.multiply(y, h)
            s = R.sigmoid(t)
            m = R.multiply(k, s)
            u = R.sigmoid(m)
            v = R.multiply(m, u)
            w = R.add(v, u)
            R.output(w)
        return w


@pytest.mark.parametrize("before", [Before, Nested], ids=["quotient", "nested"])
def test_rewrites(golden: Callable[..., None], before: object) -> None:
    golden(RaiseActivations(), before, Expected)


def test_leaves_other_formulas_alone(golden: Callable[..., None]) -> None:
    golden(RaiseActivations(), Others, Others)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    x = np.linspace(-8, 8, 128, dtype=np.float32).reshape(2, 64)
    np.testing.assert_allclose(execute(Expected, x), execute(Before, x), atol=1e-6)
