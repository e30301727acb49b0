"""TopK, OneHot, CumSum and normalizations against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import BuiltModel, check_model, run_model

from relaxc.errors import UnsupportedOpError


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


@pytest.mark.parametrize("k", ["int64[1] k", "float s"])
def test_more_than_there_is_is_an_error(k: str) -> None:
    """Computed by the model, or known, of rows that only the data count."""
    graph = f"g (float[n,5] x, {k}) => (float[a,5] v, int64[a,5] i) {{ v, i = TopK<axis=0>(x, k) }}"
    constants = {} if "k" in k else {"k": np.array([4])}
    model = onnx_model(graph, 18, **constants)
    built = BuiltModel(model)
    more = {"k": np.array([4])} if "k" in k else {"s": np.array(0, np.float32)}
    assert built.run({"x": floats(4, 5), **more})[1].shape == (4, 5)
    with pytest.raises(RuntimeError, match="out of range of axis 0"):
        built.run({"x": floats(3, 5), **more})


def test_more_than_a_known_axis_has_is_refused() -> None:
    graph = "g (float[3,5] x) => (float[4,5] v, int64[4,5] i) { v, i = TopK<axis=0>(x, k) }"
    model = onnx_model(graph, k=np.array([4]))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedOpError, match="TopK"):
        run_model(model, {"x": floats(3, 5)})


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
