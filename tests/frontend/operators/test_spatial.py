"""Operators over positions that are computed, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "attrs", ["", ", pads = [1,1,1,1]", ", strides = [2,2], dilations = [2,1]"]
)
def test_positions_of_maxima(attrs: str) -> None:
    graph = f"""g (float[n,3,7,8] x) => (float y, int64 i) {{
        y, i = MaxPool<kernel_shape = [2,3]{attrs}>(x)
    }}"""
    check_model(onnx_model(graph, 12), {"x": draw(2, 3, 7, 8)})


def test_deformed_convolution() -> None:
    graph = """g (float[n,4,6,6] x, float[n,36,4,4] o, float[n,18,4,4] m) => (float y) {
        y = DeformConv<kernel_shape = [3,3], group = 2, offset_group = 2>(x, w, o, b, m)
    }"""
    feed = {"x": draw(1, 4, 6, 6), "o": draw(1, 36, 4, 4), "m": np.abs(draw(1, 18, 4, 4))}
    check_model(onnx_model(graph, 19, w=draw(6, 2, 3, 3), b=draw(6)), feed)


def test_columns_to_images_of_sizes_computed_by_the_model() -> None:
    graph = """g (float[n,12,20] x, int64[2] size, int64[2] block) => (float[n,3,5,6] y) {
        y = Col2Im(x, size, block)
    }"""
    feed = {"x": draw(2, 12, 20), "size": np.array([5, 6]), "block": np.array([2, 2])}
    check_model(onnx_model(graph), feed)


def test_integer_convolution() -> None:
    graph = """g (uint8[n,3,6,6] x) => (int32 y) {
        y = ConvInteger<pads = [1,1,1,1]>(x, w, zx)
    }"""
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 255, (4, 3, 3, 3)).astype(np.uint8)
    x = rng.integers(0, 255, (2, 3, 6, 6)).astype(np.uint8)
    check_model(onnx_model(graph, w=weight, zx=np.array(100, np.uint8)), {"x": x})


def test_transposed_convolution_of_a_given_size() -> None:
    graph = """g (float[1,2,4,4] x) => (float y) {
        y = ConvTranspose<strides = [2,2], output_shape = [8,8]>(x, w)
    }"""
    check_model(onnx_model(graph, w=draw(2, 3, 3, 3)), {"x": draw(1, 2, 4, 4)})


def test_determinants() -> None:
    graph = "g (float[n,4,4] x) => (float[n] y) { y = Det(x) }"
    check_model(onnx_model(graph), {"x": draw(3, 4, 4)})
