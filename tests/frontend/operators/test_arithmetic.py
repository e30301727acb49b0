"""Arithmetic at the edges, against ONNX's reference implementation."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import run_model
from onnx.reference import ReferenceEvaluator


def agree(graph: str, **feed: np.ndarray) -> None:
    model = onnx_model(graph, 20)
    (expected,) = ReferenceEvaluator(model).run(None, feed)
    (actual,), _ = run_model(model, feed)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(("base", "exponent"), [("int32", "int32"), ("int64", "float32")])
def test_powers_of_integers(base: str, exponent: str) -> None:
    kind = exponent.replace("float32", "float")
    graph = f"g ({base}[4] x, {kind}[4] n) => ({base}[4] y) {{ y = Pow(x, n) }}"
    agree(graph, x=np.array([2, -3, 0, 5], base), n=np.array([5, 3, 0, 1], exponent))


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders(fmod: int) -> None:
    a = np.array([-4.3, 7.2, 5.0, -4.0, 3.0], np.float32)
    b = np.array([2.1, -3.4, 8.0, 2.0, np.inf], np.float32)
    if fmod:
        graph = "g (float[5] a, float[5] b) => (float[5] y) { y = Mod<fmod=1>(a, b) }"
        agree(graph, a=a, b=b)
    graph = f"g (int32[5] a, int32[5] b) => (int32[5] y) {{ y = Mod<fmod={fmod}>(a, b) }}"
    ints = np.array([2, -3, 8, 2, 5], np.int32)
    agree(graph, a=a.astype(np.int32), b=ints)


def test_infinities_of_one_sign() -> None:
    for low, high in ((0, 1), (1, 0), (1, 1), (0, 0)):
        attrs = f"<detect_negative={low}, detect_positive={high}>"
        x = np.array([np.inf, -np.inf, np.nan, 1], np.float32)
        agree(f"g (float[4] x) => (bool[4] y) {{ y = IsInf{attrs}(x) }}", x=x)


@pytest.mark.parametrize("node", ["Elu<alpha=0.5>", "Selu", "Selu<alpha=2.0, gamma=3.0>"])
def test_exponential_units_of_doubles(node: str) -> None:
    agree(f"g (double[3] x) => (double[3] y) {{ y = {node}(x) }}", x=np.array([-2.0, 0.0, 3.0]))
