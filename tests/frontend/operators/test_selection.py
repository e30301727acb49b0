"""TopK, OneHot, CumSum and normalizations against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("k", [1, 3])
def test_top_k_of_a_count_computed_by_the_model(largest: int, k: int) -> None:
    graph = f"""g (float[n,5] x, int64[1] k) => (float[n,k] v, int64[n,k] i) {{
        v, i = TopK<axis=1, largest={largest}>(x, k)
    }}"""
    x = np.round(floats(4, 5))  # with ties
    check_model(onnx_model(graph), {"x": x, "k": np.array([k])})


def test_one_hot_of_a_depth_computed_by_the_model() -> None:
    graph = "g (int64[n] x, int64[1] d, float[2] v) => (float[n,d] y) { y = OneHot(x, d, v) }"
    feed = {"x": np.array([0, -1, 7]), "d": np.array([4]), "v": np.array([-1, 2], np.float32)}
    check_model(onnx_model(graph), feed)


@pytest.mark.parametrize("attrs", ["", "<exclusive=1>", "<reverse=1>", "<exclusive=1, reverse=1>"])
@pytest.mark.parametrize("axis", [0, -1])
def test_cumulative_sums(attrs: str, axis: int) -> None:
    graph = f"g (float[n,3,2] x, int64 a) => (float[n,3,2] y) {{ y = CumSum{attrs}(x, a) }}"
    check_model(onnx_model(graph), {"x": floats(2, 3, 2), "a": np.array(axis)})


def test_all_results_of_layer_normalization() -> None:
    graph = """g (float[n,3,4] x, float[3,4] s, float[3,4] b)
        => (float[n,3,4] y, float[n,1,1] m, float[n,1,1] d) {
        y, m, d = LayerNormalization<axis=1>(x, s, b)
    }"""
    check_model(onnx_model(graph), {"x": floats(2, 3, 4), "s": floats(3, 4), "b": floats(3, 4)})
