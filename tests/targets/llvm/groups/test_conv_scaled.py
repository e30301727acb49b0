"""Channels multiplied by numbers before a pointwise convolution: its weights are, instead."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model, run_model

from relaxc import cpu


def _model(
    channels: int, outputs: int, size: tuple[int, int], order: str = "x, f", images: int = 1
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(channels)
    height, width = size
    model = onnx_model(
        f"""g (float[{images},{channels},{height},{width}] x, float[{images},{channels},1,1] e,
               float[{images},{outputs},{height},{width}] r) => (float[n,o,h,w] y) {{
            f = Sigmoid (e)
            p = Mul ({order})
            c = Conv <kernel_shape=[1,1]> (p, weight, bias)
            y = Add (c, r)
        }}""",
        weight=rng.standard_normal((outputs, channels, 1, 1)).astype(np.float32),
        bias=rng.standard_normal(outputs).astype(np.float32),
    )
    shapes = {
        "x": (images, channels, *size),
        "e": (images, channels, 1, 1),
        "r": (images, outputs, *size),
    }
    return model, {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("channels", "outputs", "size", "order"),
    [
        (96, 24, (17, 23), "x, f"),  # the last half block in pairs
        (37, 5, (5, 9), "f, x"),
        (50, 40, (19, 31), "f, x"),  # a narrower last group
        (32, 112, (1, 449), "x, f"),  # fewer rows than tasks
    ],
)
def test_weights_are_multiplied(
    channels: int, outputs: int, size: tuple[int, int], order: str, target: str
) -> None:
    model, feed = _model(channels, outputs, size, order)
    check_model(model, feed, target, kernels={"conv2d_scaled"})


@pytest.mark.skipif("avx512bf16" not in cpu.features(), reason="needs dot products of bfloat16")
def test_pairs_of_weights_are_multiplied() -> None:
    model, feed = _model(42, 24, (13, 15))
    (result,), kernels = run_model(model, feed, precision="bfloat16")
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    assert "conv2d_scaled" in kernels
    assert np.linalg.norm(result - wanted) < 5e-3 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("outputs", "size", "images"),
    [(112, (7, 7), 1), (24, (17, 23), 2)],
    ids=["as many weights as data", "several images"],
)
def test_the_map_is_multiplied_where_that_is_less(
    outputs: int, size: tuple[int, int], images: int
) -> None:
    model, feed = _model(48, outputs, size, images=images)
    result, kernels = run_model(model, feed)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    assert "conv2d_scaled" not in kernels
    np.testing.assert_allclose(result[0], wanted[0], rtol=0, atol=1e-4)


def test_a_map_that_others_read_is_multiplied() -> None:
    model = onnx_model(
        """g (float[1,32,16,16] x, float[1,32,1,1] f) => (float[a,b,c,d] y, float[e,f,g,h] z) {
            p = Mul (x, f)
            y = Conv <kernel_shape=[1,1]> (p, weight)
            z = Relu (p)
        }""",
        weight=np.random.default_rng(0).standard_normal((16, 32, 1, 1)).astype(np.float32),
    )
    rng = np.random.default_rng(1)
    feed = {
        "x": rng.standard_normal((1, 32, 16, 16)).astype(np.float32),
        "f": rng.standard_normal((1, 32, 1, 1)).astype(np.float32),
    }
    result, kernels = run_model(model, feed)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    assert "conv2d_scaled" not in kernels
    for got, expected in zip(result, wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
