"""Wide strided kernels on images: fewer multiplications along columns, the same numbers."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from builders import onnx_model
from kernels import run_model

# Weight, size of the image, strides, paddings, batch, activation.
CASES = {
    "resnet": ((64, 3, 7, 7), (56, 112), (2, 2), (3, 3, 3, 3), 1, "Relu"),
    "one block more, and a part of a tile": (
        (48, 4, 5, 5),
        (21, 69),
        (2, 2),
        (2, 1, 2, 3),
        2,
        "Relu",
    ),
    "rows of any stride, heavy epilogue": (
        (16, 1, 6, 7),
        (30, 75),
        (1, 2),
        (0, 0, 0, 0),
        1,
        "SiLU",
    ),
    "whole vectors of tiles": ((32, 3, 7, 6), (19, 128), (3, 2), (3, 2, 3, 2), "n", "Relu"),
    "columns that nothing reads": ((16, 2, 5, 5), (9, 62), (2, 2), (2, 2, 2, 0), 1, "Relu"),
}


@pytest.mark.parametrize("name", CASES)
def test_same_numbers(name: str) -> None:
    weight, size, strides, pads, batch, activation = CASES[name]
    rng = np.random.default_rng(0)
    last = "y = Relu (a)"
    if activation == "SiLU":
        last = "s = Sigmoid (a)\n y = Mul (a, s)"
    model = onnx_model(
        f"""g (float[{batch},{weight[1]},{size[0]},{size[1]}] x) => (float[{batch},o,h,w] y) {{
            a = Conv <strides={list(strides)}, pads={list(pads)}> (x, w, b)
            {last}
        }}""",
        w=rng.standard_normal(weight).astype(np.float32),
        b=rng.standard_normal(weight[0]).astype(np.float32),
    )
    count = batch if isinstance(batch, int) else 3
    x = rng.standard_normal((count, weight[1], *size)).astype(np.float32)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    (actual,), kernels = run_model(model, {"x": x}, "llvm -mcpu=znver5")
    assert any(kernel.startswith("conv2d_stem") for kernel in kernels), kernels
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error < 2e-6


def test_error_is_that_of_direct_convolution_times_two_and_a_half() -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((64, 3, 7, 7)).astype(np.float32)
    x = rng.standard_normal((1, 3, 112, 112)).astype(np.float32)
    text = """g (float[1,3,112,112] x) => (float[1,64,56,56] y) {
        y = Conv <strides=[2,2], pads=[3,3,3,3]> (x, w)
    }"""
    exact = reference(x.astype(np.float64), weight.astype(np.float64))
    model = onnx_model(text, w=weight)
    direct = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    (actual,), _ = run_model(model, {"x": x}, "llvm -mcpu=znver5")
    assert np.linalg.norm(actual - exact) < 2.5 * np.linalg.norm(direct - exact)


def reference(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    padded = np.pad(x[0], ((0, 0), (3, 3), (3, 3)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (1, 2))[:, ::2, ::2]
    result: np.ndarray = np.einsum("chwij,ocij->ohw", windows, weight)[None]
    return result
