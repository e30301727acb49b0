"""Transposed convolutions, phase by phase."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model

# kernel, stride, padding, dilation, output padding
CASES = [(2, 2, 0, 1, 0), (3, 2, 1, 1, 1), (4, 2, 1, 1, 0), (3, 1, 1, 1, 0), (3, 3, 0, 1, 0)]
CASES += [(2, 3, 0, 1, 1), (3, 2, 1, 2, 1), (5, 2, 2, 1, 1)]


@pytest.mark.parametrize("kernel, stride, pad, dilation, extra", CASES)
def test_matches_onnxruntime(kernel: int, stride: int, pad: int, dilation: int, extra: int) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        f"""g (float[2,24,7,8] x) => (float[n,c,h,w] y) {{
            a = ConvTranspose <kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}],
                               pads=[{pad},{pad},{pad},{pad}], dilations=[{dilation},{dilation}],
                               output_padding=[{extra},{extra}]> (x, w, b)
            c = Relu (a)
            y = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (c, v)
        }}""",
        w=rng.standard_normal((24, 20, kernel, kernel)).astype(np.float32),
        b=rng.standard_normal(20).astype(np.float32),
        v=rng.standard_normal((16, 20, 3, 3)).astype(np.float32),
    )
    x = rng.standard_normal((2, 24, 7, 8)).astype(np.float32)
    check_model(model, {"x": x}, kernels={"conv2d_transpose"})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "depth, width, groups", [(24, 24, 24), (16, 32, 8), (30, 20, 5), (6, 3, 3)]
)
def test_groups(depth: int, width: int, groups: int, target: str) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        f"""g (float[n,{depth},7,9] x) => (float[n,c,h,w] y) {{
            a = ConvTranspose <kernel_shape=[3,2], strides=[2,3], pads=[1,0,0,1],
                               group={groups}> (x, w, b)
            y = Relu (a)
        }}""",
        w=rng.standard_normal((depth, width // groups, 3, 2)).astype(np.float32),
        b=rng.standard_normal(width).astype(np.float32),
    )
    x = rng.standard_normal((2, depth, 7, 9)).astype(np.float32)
    check_model(model, {"x": x}, target, kernels={"conv2d_transpose"})
