"""Transcendental functions against float64, where they matter and at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm

from relaxc import cpu
from relaxc.targets.llvm.kernels import lookup, vector_math
from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.kernels.piecewise import ACTIVATIONS
from relaxc.targets.registry import backend_for


def evaluate(
    function: Callable[[Any], Any], x: np.ndarray, lanes: int, b: KernelBuilder | None = None
) -> np.ndarray:
    b = KernelBuilder("f", lanes) if b is None else b
    source, result = b.param("x", x.shape), b.param("y", x.shape)
    with b.loop(x.size // lanes) as i:
        value = function(b.let(b.load(source, i * lanes)))
        b.store(result, i * lanes, value)
    target = backend_for("llvm").target
    with target:
        library = tvm.compile(tvm.IRModule({"f": b.finish(public=True)}), target)
    y = tvm.runtime.tensor(np.zeros_like(x))
    library["f"](tvm.runtime.tensor(x), y)
    return np.asarray(y.numpy())


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize(
    "function, reference",
    [
        (vector_math.exp, np.exp),
        (vector_math.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    ],
    ids=["exp", "sigmoid"],
)
def test_relative_error(
    function: Callable[[Any], Any], reference: Callable[[Any], Any], lanes: int
) -> None:
    x = np.linspace(-87, 88, 1 << 18, dtype=np.float32)
    expected = reference(x.astype(np.float64))
    assert np.max(np.abs(evaluate(function, x, lanes) - expected) / expected) < 3e-7


@pytest.mark.parametrize("lanes", [1, 8])
def test_edges(lanes: int) -> None:
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 100, -100, 1e30], np.float32)
    big, tiny = np.inf, 0.0
    np.testing.assert_allclose(
        evaluate(vector_math.exp, x, lanes), [1, 1, big, tiny, np.nan, big, tiny, big], atol=2e-38
    )
    np.testing.assert_allclose(
        evaluate(vector_math.sigmoid, x, lanes), [0.5, 0.5, 1, 0, np.nan, 1, 0, 1], atol=2e-38
    )


@pytest.mark.parametrize(
    "function, reference, error",
    [
        (vector_math.erf_rounded, math.erf, 2e-4),
        (vector_math.gelu_rounded, lambda x: x * (1 + math.erf(x / 2**0.5)) / 2, 4e-4),
        (vector_math.gelu, lambda x: x * (1 + math.erf(x / 2**0.5)) / 2, 5e-7),
        (vector_math.silu, lambda x: x / (1 + math.exp(-x)), 3e-7),
    ],
    ids=["erf_rounded", "gelu_rounded", "gelu", "silu"],
)
def test_activations_and_error_function(
    function: Callable[[Any], Any], reference: Callable[[float], float], error: float
) -> None:
    x = np.linspace(-50, 50, 1 << 14, dtype=np.float32)
    expected = np.array([reference(float(v)) for v in x])
    difference = np.abs(evaluate(function, x, 8) - expected)
    assert np.max(difference / np.maximum(np.abs(x), 1)) < error
    assert np.isnan(evaluate(function, np.full(8, np.nan, np.float32), 8)).all()


_AVX512 = pytest.mark.skipif("avx512f" not in cpu.features(), reason="needs AVX-512")


def exact(name: str, x: np.ndarray) -> np.ndarray:
    b = KernelBuilder("f", 16)
    return evaluate(lambda value: lookup.exact(b, name, value), x, 16, b)


@_AVX512
def test_exponentials_by_look_up() -> None:
    x = np.linspace(-86, 88, 1 << 18, dtype=np.float32)
    expected = np.exp(x.astype(np.float64))
    assert np.max(np.abs(exact("exp", x) - expected) / expected) < 3e-7
    falling = np.minimum(x, 0)
    below = np.exp(falling.astype(np.float64))
    difference = np.abs(exact("decay", falling) - below) / below
    assert np.max(difference + 1.4e-8 * falling) < 2.2e-7
    expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.max(np.abs(exact("sigmoid", x) - expected) / expected) < 3e-7
    expected = x * expected
    assert np.max(np.abs(exact("silu", x) - expected) / np.maximum(np.abs(expected), 1e-30)) < 4e-7


@_AVX512
def test_gelu_by_look_up() -> None:
    x = np.linspace(-50, 50, 1 << 16, dtype=np.float32)
    expected = np.array([v * math.erfc(-v / 2**0.5) / 2 for v in x.astype(np.float64)])
    difference = np.abs(exact("gelu", x) - expected)
    assert np.max(difference / np.maximum(np.abs(x), 1)) < 3e-7


@_AVX512
def test_edges_by_look_up() -> None:
    big = np.inf
    x = np.array([0, -0.0, big, -big, np.nan, 100, -100, 1e30, -1e30, *[1.0] * 7], np.float32)
    for name, expected in {
        "exp": [1, 1, big, 0, np.nan, big, 0, big, 0, np.e],
        "sigmoid": [0.5, 0.5, 1, 0, np.nan, 1, 0, 1, 0, 1 / (1 + 1 / np.e)],
        "silu": [0, 0, big, 0, np.nan, 100, 0, 1e30, 0, 1 / (1 + 1 / np.e)],
        "gelu": [0, 0, big, 0, np.nan, 100, 0, 1e30, 0, 0.8413447],
    }.items():
        found = exact(name, x)[: len(expected)]
        np.testing.assert_allclose(found, expected, rtol=4e-7, atol=3e-36, err_msg=name)
    x = np.array([0, -0.0, -big, np.nan, -100, -1e30, *[-1.0] * 10], np.float32)
    expected = [1, 1, 0, np.nan, 0, 0, 1 / np.e]
    np.testing.assert_allclose(exact("decay", x)[:7], expected, rtol=4e-7, atol=3e-36)


@_AVX512
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_by_look_up(name: str) -> None:
    x = np.linspace(-50, 50, 1 << 14, dtype=np.float32)
    expected = ACTIVATIONS[name].function(x.astype(np.float64))
    b = KernelBuilder("f", 16)
    found = evaluate(lambda value: b.activation(name, value), x, 16, b)
    assert np.max(np.abs(found - expected)) < 6e-4
    b = KernelBuilder("f", 16)
    edges = np.array([np.nan, 1e30, -1e30, 0] * 4, np.float32)
    found = evaluate(lambda value: b.activation(name, value), edges, 16, b)
    np.testing.assert_allclose(found, [np.nan, 1e30, 0, 0] * 4, atol=5e-4)
