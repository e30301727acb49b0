"""Pooling: windows over the edge, ceil mode, padding that counts and padding that does not."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model

CASES = [
    ("MaxPool", "<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>", "pool2d_max"),
    ("MaxPool", "<kernel_shape=[2,2], strides=[2,2]>", "pool2d_max"),
    ("MaxPool", "<kernel_shape=[5,5], pads=[2,2,2,2]>", "pool2d_max"),
    ("MaxPool", "<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>", "pool2d_max"),
    ("AveragePool", "<kernel_shape=[3,3], pads=[1,1,1,1]>", "pool2d_average"),
    ("AveragePool", "<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>", "pool2d_average"),
    ("AveragePool", "<kernel_shape=[3,2], strides=[2,1], pads=[1,0,1,1]>", "pool2d_average"),
    ("GlobalAveragePool", "", "mean2d"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op, attributes, kernel", CASES)
def test_matches_onnxruntime(op: str, attributes: str, kernel: str, target: str) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        f"""g (float[2,20,13,11] x) => (float[n,c,h,w] y) {{
            a = {op} {attributes} (x)
            y = Relu (a)
        }}"""
    )
    # Negative everywhere: padding with zeros instead of nothing would show.
    x = -np.abs(rng.standard_normal((2, 20, 13, 11)).astype(np.float32)) + 0.1
    check_model(model, {"x": x}, target, kernels={kernel})


def test_windows_too_large_to_write_out_are_left_to_the_loop_nests() -> None:
    model = onnx_model(
        """g (float[1,1,300,300] x) => (float[n,c,h,w] y) {
            y = MaxPool <kernel_shape=[60,80], strides=[30,30], dilations=[3,2], pads=[9,9,9,9]> (x)
        }"""
    )
    x = np.random.default_rng(0).standard_normal((1, 1, 300, 300)).astype(np.float32)
    check_model(model, {"x": x}, TARGETS[0], kernels=set())
