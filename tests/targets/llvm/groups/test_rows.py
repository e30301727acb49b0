"""Normalizations of rows whose length vectors do not divide."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("length", [5, 16, 49, 96, 100, 192])
def test_layer_norm(length: int, target: str) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        f"""g (float[n,3,{length}] x) => (float[n,3,{length}] y) {{
            a = LayerNormalization <axis=-1, epsilon=0.00001> (x, scale, bias)
            y = Relu (a)
        }}""",
        scale=rng.standard_normal(length).astype(np.float32),
        bias=rng.standard_normal(length).astype(np.float32),
    )
    x = rng.standard_normal((7, 3, length)).astype(np.float32) * 3 + 1
    check_model(model, {"x": x}, target, kernels={"norm"})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("length", [1, 16, 37, 130])
def test_softmax(length: int, target: str) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        f"g (float[n,{length}] x) => (float[n,{length}] y) {{ y = Softmax <axis=-1> (x) }}"
    )
    x = rng.standard_normal((9, length)).astype(np.float32) * 20
    x[0] = -1e30  # as masks leave it
    check_model(model, {"x": x}, target, kernels={"softmax"})
