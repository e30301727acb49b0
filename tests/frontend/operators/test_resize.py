"""Resize in its modes, with sizes and scales known and computed, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transform", ["half_pixel", "asymmetric", "align_corners"])
def test_known_scales(mode: str, transform: str) -> None:
    attrs = f'<mode="{mode}", coordinate_transformation_mode="{transform}">'
    graph = f"g (float[1,2,5,6] x) => (float[1,2,a,b] y) {{ y = Resize{attrs}(x, none, scales) }}"
    scales = np.array([1, 1, 1.6, 0.5], np.float32)
    model = onnx_model(graph, none=np.zeros(0, np.float32), scales=scales)
    check_model(model, {"x": floats(1, 2, 5, 6)})


@pytest.mark.parametrize("size", [3, 9])
def test_sizes_computed_by_the_model(size: int) -> None:
    graph = """g (float[1,2,n,6] x, int64[4] s) => (float[1,2,a,b] y) {
        y = Resize<mode="linear">(x, , , s)
    }"""
    sizes = np.array([1, 2, size, 7])
    check_model(onnx_model(graph), {"x": floats(1, 2, 5, 6), "s": sizes})
