"""An expansion and its depthwise convolution as one kernel, whose rows are never stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model, run_model

from relaxc import cpu
from relaxc.targets.llvm.groups import expansion

# channels in, between, height, width, kernel, strides, pads (top, left, bottom, right)
CASES = [
    (16, 48, 21, 30, (3, 3), (1, 1), (1, 1, 1, 1)),
    (24, 40, 30, 33, (3, 3), (2, 2), (1, 1, 1, 1)),
    (37, 21, 16, 45, (5, 5), (1, 2), (2, 2, 2, 2)),
    (32, 96, 29, 8, (5, 3), (2, 1), (0, 1, 4, 0)),
    (20, 33, 9, 17, (2, 4), (2, 3), (0, 2, 1, 1)),
    (16, 16, 3, 60, (3, 1), (1, 1), (2, 0, 2, 0)),
    (17, 50, 40, 1, (1, 1), (1, 1), (0, 0, 0, 0)),
]


@pytest.fixture(autouse=True)
def small_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of a few kilobytes are as good as larger ones here."""
    monkeypatch.setattr(expansion, "_worth_it", lambda _spec, _machine: True)


def _model(case: tuple[Any, ...], images: int = 1) -> tuple[onnx.ModelProto, np.ndarray]:
    depth, width, height, length, kernel, strides, pads = case
    rng = np.random.default_rng(depth)
    model = onnx_model(
        f"""g (float[{images},{depth},{height},{length}] x) => (float[n,c,h,w] y) {{
            a = Conv <kernel_shape=[1,1]> (x, weight, bias)
            b = Sigmoid (a)
            c = Mul (a, b)
            d = Conv <kernel_shape={list(kernel)}, strides={list(strides)}, pads={list(pads)},
                      group={width}> (c, taps, shift)
            y = Relu (d)
        }}""",
        weight=rng.standard_normal((width, depth, 1, 1)).astype(np.float32),
        bias=rng.standard_normal(width).astype(np.float32),
        taps=rng.standard_normal((width, 1, *kernel)).astype(np.float32),
        shift=rng.standard_normal(width).astype(np.float32),
    )
    return model, rng.standard_normal((images, depth, height, length)).astype(np.float32)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}to{c[1]}-{c[4]}")
def test_matches_onnxruntime(case: tuple[Any, ...], target: str) -> None:
    model, x = _model(case)
    check_model(model, {"x": x}, target, kernels={"conv2d_expanded"})


@pytest.mark.skipif("avx512bf16" not in cpu.features(), reason="needs dot products of bfloat16")
@pytest.mark.parametrize("case", CASES[:4], ids=lambda c: f"{c[0]}to{c[1]}-{c[4]}")
def test_bfloat16(case: tuple[Any, ...]) -> None:
    model, x = _model(case)
    (result,), kernels = run_model(model, {"x": x}, precision="bfloat16")
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    assert "conv2d_expanded" in kernels
    assert np.linalg.norm(result - wanted) < 1e-2 * np.linalg.norm(wanted)


def test_a_residual_and_a_border_for_the_next() -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[1,32,18,18] x) => (float[n,c,h,w] y) {
            a = Conv <kernel_shape=[1,1]> (x, weight)
            b = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=32> (a, taps)
            c = Add (b, x)
            y = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=32> (c, taps)
        }""",
        weight=rng.standard_normal((32, 32, 1, 1)).astype(np.float32),
        taps=rng.standard_normal((32, 1, 3, 3)).astype(np.float32),
    )
    x = rng.standard_normal((1, 32, 18, 18)).astype(np.float32)
    check_model(model, {"x": x}, kernels={"conv2d_expanded", "conv2d_depthwise"})


def test_several_images_are_not_joined() -> None:
    model, x = _model(CASES[0], images=2)
    _, kernels = run_model(model, {"x": x})
    assert "conv2d_expanded" not in kernels


def test_maps_that_caches_hold_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model, x = _model(CASES[0])
    _, kernels = run_model(model, {"x": x})
    assert "conv2d_expanded" not in kernels
