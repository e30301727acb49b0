"""What the fuzzer found: empty tensors, symbols that turn out to be 1, unsigned numbers."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from fuzz.judge import Feeds, judge


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(np.float32)


def indices(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


BYTES = np.arange(3, dtype=np.uint8)

CASES: dict[str, tuple[str, list[Feeds], dict[str, np.ndarray]]] = {
    "a symbol expands to what its axis must have": (
        "g (float[n,7,1] x) => (float[a,b,c,d] y) { y = Expand(x, s) }",
        [{"x": numbers(2, 7, 1)}, {"x": numbers(1, 7, 1)}],
        {"s": indices(2, 2, 7, 2)},
    ),
    "a transposed vector and a constant of more axes": (
        "g (float[n] x) => (float[a,b] y) { t = Transpose<perm=[0]>(x) y = Add(t, c) }",
        [{"x": numbers(2)}],
        {"c": numbers(2, 1)},
    ),
    "a product of no columns": (
        "g (float[n,4] x) => (float[a,b] y) { y = MatMul(x, c) }",
        [{"x": numbers(2, 4)}],
        {"c": numbers(4, 0)},
    ),
    "a product over nothing": (
        "g (float[n,0] x) => (float[a,b] y) { y = MatMul(x, c) }",
        [{"x": numbers(2, 0)}],
        {"c": numbers(0, 16)},
    ),
    "a sum along an axis of several symbols": (
        "g (float[1,m,m,k] x) => (float[a,b,c,d] y) { y = CumSum(x, c) }",
        [{"x": numbers(1, 7, 7, 3)}],
        {"c": np.array(-4, np.int64)},
    ),
    "the sign of unsigned numbers": (
        "g (uint8[3] x) => (uint8[3] y) { y = Sign(x) }",
        [{"x": BYTES}],
        {},
    ),
    "the mean of integers, toward zero": (
        "g (int64[3,2] x) => (int64[a] y) { y = ReduceMean<keepdims=0>(x, i) }",
        [{"x": np.array([[-3, 2], [-2, 3], [0, 1]], np.int64)}],
        {"i": indices(0)},
    ),
    "functions that halves lack": (
        "g (float16[3] x) => (float16[3] y) { a = Asinh(x) b = Atan(a) y = Cosh(b) }",
        [{"x": BYTES.astype(np.float16)}],
        {},
    ),
    "nothing to scatter": (
        "g (float[2,m] x) => (float[a,b] y) { y = ScatterElements(x, i, u) }",
        [{"x": numbers(2, 5)}],
        {"i": np.zeros((2, 0), np.int64), "u": numbers(2, 0)},
    ),
    "a reduction over a symbol of size 0": (
        "g (float[n,3] x) => (float[a] y) { y = ReduceSum<keepdims=0>(x, i) }",
        [{"x": numbers(0, 3)}, {"x": numbers(2, 3)}],
        {"i": indices(0)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_edge(name: str) -> None:
    graph, feeds, weights = CASES[name]
    verdict = judge(onnx_model(graph, 18, **weights), feeds)
    assert verdict.status == "passed", verdict.detail
