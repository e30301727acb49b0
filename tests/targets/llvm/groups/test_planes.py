"""Planes of volumes: vectors that lie together, those of several planes, and rows of pixels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import onnx_model
from kernels import TARGETS, BuiltModel, check_model

RNG = np.random.default_rng(0)

# what is in front of the convolution, channels there, and its attributes
CASES = [
    # Rows of pixels of the input, which has its channels first.
    ("", 16, "pads=[1,1,1,1,1,1]"),
    ("", 20, "pads=[2,0,0,0,0,0], strides=[2,1,1]"),
    # Vectors of channels as another convolution wrote them, and as no vectors hold them.
    ("Conv", 32, "pads=[1,1,1,1,1,1]"),
    ("Conv", 32, "pads=[2,1,1,2,1,1], dilations=[2,1,1], strides=[1,2,2]"),
    ("Conv", 24, "pads=[1,0,0,0,0,0]"),
]


def _model(first: str, channels: int, attributes: str, shape: str) -> onnx.ModelProto:
    given = 5 if first else channels
    return onnx_model(
        f"""g (float[{shape.format(given)}] x) => (float[n,c,d,h,u] y) {{
            a = {first or "Identity"} (x{", v" if first else ""})
            y = Conv <{attributes}> (a, w)
        }}""",
        v=RNG.standard_normal((channels, given, 1, 1, 1)).astype(np.float32),
        w=RNG.standard_normal((9, channels, 3, 3, 3)).astype(np.float32),
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("first, channels, attributes", CASES)
def test_matches_onnxruntime(first: str, channels: int, attributes: str, target: str) -> None:
    model = _model(first, channels, attributes, "2,{},4,7,9")
    x = RNG.standard_normal((2, 5 if first else channels, 4, 7, 9)).astype(np.float32)
    check_model(model, {"x": x}, target, kernels={"planes"})


def test_planes_of_fewer_pixels_than_a_vector() -> None:
    model = _model("", 20, "pads=[1,1,1,1,1,1]", "1,{},3,2,3")
    x = RNG.standard_normal((1, 20, 3, 2, 3)).astype(np.float32)
    check_model(model, {"x": x}, kernels={"planes"})


def test_transposed_convolutions_read_planes_too() -> None:
    model = onnx_model(
        """g (float[1,16,3,5,6] x) => (float[n,c,d,h,u] y) {
            y = ConvTranspose <strides=[2,2,2], pads=[1,1,1,1,1,1]> (x, w)
        }""",
        w=RNG.standard_normal((16, 6, 3, 3, 3)).astype(np.float32),
    )
    x = RNG.standard_normal((1, 16, 3, 5, 6)).astype(np.float32)
    check_model(model, {"x": x}, kernels={"planes"})


@pytest.mark.parametrize("batch, channels", [("n", 16), ("1", 3)])
def test_leaves_to_the_loop_nests(batch: str, channels: int) -> None:
    """Batches with a name, and stacks that do not fill a vector."""
    model = _model("", channels, "pads=[1,1,1,1,1,1]", batch + ",{},4,5,6")
    built = BuiltModel(model, TARGETS[0], "float32")
    assert "planes" not in built.kernels


@pytest.mark.parametrize("first, channels", [("", 20), ("Conv", 32)])
def test_stores_bfloat16(first: str, channels: int) -> None:
    model = _model(first, channels, "pads=[1,1,1,1,1,1]", "1,{},4,7,9")
    x = RNG.standard_normal((1, 5 if first else channels, 4, 7, 9)).astype(np.float32)
    (exact,), (rounded,) = (
        BuiltModel(model, TARGETS[0], precision).run({"x": x})
        for precision in ("float32", "bfloat16")
    )
    built = BuiltModel(model, TARGETS[0], "bfloat16")
    assert "planes" in built.kernels
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.02 * np.abs(exact).max())
