"""Convolutions with few outputs: vectors of columns, rows that tiles do not cover evenly."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import TARGETS, BuiltModel, check_model

RNG = np.random.default_rng(0)

# input, weight, attributes
CASES = [
    ("2,20,9,40", (1, 20, 7, 7), "pads=[3,3,3,3]"),
    ("n,3,6,77", (1, 3, 5, 2), "dilations=[1,3], strides=[2,1], pads=[4,0,1,5]"),
    ("1,16,500", (1, 16, 7), "pads=[3,3]"),
    ("1,4,20,16", (1, 4, 5, 1), "pads=[0,0,0,0]"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape, weight, attributes", CASES)
def test_matches_onnxruntime(
    shape: str, weight: tuple[int, ...], attributes: str, target: str
) -> None:
    result = ",".join(f"y{i}" for i in range(len(weight)))
    model = onnx_model(
        f"""g (float[{shape}] x) => (float[{result}] y) {{
            r = Relu (x)
            a = Conv <{attributes}> (r, w, b)
            y = Tanh (a)
        }}""",
        w=RNG.standard_normal(weight).astype(np.float32) / 10,
        b=RNG.standard_normal(weight[0]).astype(np.float32),
    )
    sizes = [3 if d == "n" else int(d) for d in shape.split(",")]
    x = RNG.standard_normal(sizes).astype(np.float32)
    check_model(model, {"x": x}, target, kernels={"conv2d_rows"})


@pytest.mark.parametrize("outputs", [3, 4])
def test_several_outputs_between_convolutions(outputs: int) -> None:
    """Data from vectors of channels and back to them; a residual stays outside of the kernel."""
    model = onnx_model(
        """g (float[1,8,12,50] x) => (float[1,c,12,50] y) {
            a = Conv <pads=[1,1,1,1]> (x, v)
            b = Conv <pads=[2,3,2,3]> (a, w, s)
            c = Clip (b, low, high)
            d = Add (c, b)
            y = Conv (d, u)
        }""",
        v=RNG.standard_normal((32, 8, 3, 3)).astype(np.float32),
        w=RNG.standard_normal((outputs, 32, 5, 7)).astype(np.float32),
        s=RNG.standard_normal(outputs).astype(np.float32),
        u=RNG.standard_normal((16, outputs, 1, 1)).astype(np.float32),
        low=np.array(-3, np.float32),
        high=np.array(5, np.float32),
    )
    x = RNG.standard_normal((1, 8, 12, 50)).astype(np.float32)
    check_model(model, {"x": x}, TARGETS[0], kernels={"conv2d_rows"})


@pytest.mark.parametrize(
    "weight, width",
    [((8, 4, 5, 5), 40), ((1, 4, 1, 1), 40), ((1, 4, 5, 5), 12)],
    ids=["outputs", "pointwise", "narrow"],
)
def test_leaves_to_others(weight: tuple[int, ...], width: int) -> None:
    model = onnx_model(
        f"g (float[1,{weight[1]},20,{width}] x) => (float[1,c,h,u] y) {{ y = Conv (x, w) }}",
        w=RNG.standard_normal(weight).astype(np.float32),
    )
    assert "conv2d_rows" not in BuiltModel(model, TARGETS[0], "float32").kernels


def test_reads_bfloat16() -> None:
    model = onnx_model(
        """g (float[1,8,12,50] x) => (float[1,3,12,50] y) {
            a = Conv (x, v)
            y = Conv <pads=[3,3,3,3]> (a, w)
        }""",
        v=RNG.standard_normal((32, 8, 1, 1)).astype(np.float32),
        w=RNG.standard_normal((3, 32, 7, 7)).astype(np.float32),
    )
    x = RNG.standard_normal((1, 8, 12, 50)).astype(np.float32)
    (exact,) = BuiltModel(model, TARGETS[0], "float32").run({"x": x})
    rounded = BuiltModel(model, TARGETS[0], "bfloat16")
    assert "conv2d_rows" in rounded.kernels
    (actual,) = rounded.run({"x": x})
    np.testing.assert_allclose(actual, exact, rtol=0, atol=0.02 * np.abs(exact).max())
