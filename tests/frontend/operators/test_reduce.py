"""Reductions against ONNX Runtime, with axes known and unknown at compile time."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model, run_model

KINDS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


def positive(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0, 1])
def test_known_axes(kind: str, keep: int) -> None:
    op = f"Reduce{kind}<keepdims={keep}>"
    graph = f"g (float[n,3,4] x) => (float[a,b] y, float[c] z) {{ y = {op}(x, i) z = {op}(x) }}"
    model = onnx_model(graph, i=np.array([-1, 0]))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    check_model(model, {"x": positive(2, 3, 4)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0, 1])
def test_axes_computed_by_the_model(kind: str, keep: int) -> None:
    dims = "a,b,c" if keep else "a"
    graph = f"""g (float[n,3,4] x, int64[2] i) => (float[{dims}] y) {{
        y = Reduce{kind}<keepdims={keep}>(x, i)
    }}"""
    for axes in ([-1, 0], [1, 2]):
        check_model(onnx_model(graph), {"x": positive(2, 3, 4), "i": np.array(axes)})


def test_the_maximum_of_nothing() -> None:
    graph = "g (float[2,0] x) => (float[2] y) { y = ReduceMax<keepdims=0>(x, i) }"
    (y,), _ = run_model(onnx_model(graph, 20, i=np.array([1])), {"x": np.zeros((2, 0), np.float32)})
    np.testing.assert_array_equal(y, np.full(2, -np.inf, np.float32))


@pytest.mark.parametrize("keep", [0, 1])
def test_exponentials_do_not_overflow(keep: int) -> None:
    op = f"ReduceLogSumExp<keepdims={keep}>"
    graph = f"""g (float[n,4] x, float s, int64[1] i) => (float y, float z, float u) {{
        y = {op}(x, one)
        z = {op}(x, i)
        u = {op}(s)
    }}"""
    model = onnx_model(graph, one=np.array([1]))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    feed = {"x": 200 * positive(3, 4), "s": np.array(190.5, np.float32)}
    for axis in (0, 1):
        check_model(model, {**feed, "i": np.array([axis])})


@pytest.mark.parametrize("keep", [0, 1])
def test_exponentials_of_integers(keep: int) -> None:
    graph = f"""g (int64[n,2,2] x, int64[2] i) => (int64[a] y) {{
        y = ReduceLogSumExp<keepdims={keep}>(x, i)
    }}"""
    model = onnx_model(graph, i=np.array([1, 2]))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    pairs = [(-3, -2), (-38, -97), (-1, -2), (0, 4), (1, 0), (5, 5)]
    check_model(model, {"x": np.array([[pair, pair] for pair in pairs])})
