"""Operators as older operator sets define them, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from fuzz.judge import judge

X = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
ONES = np.ones(3, np.float32)
IMAGE = "float[n,3,4,4] x"

CASES: dict[str, tuple[int, str, dict[str, np.ndarray]]] = {
    "softmax over all axes from one on": (11, "y = Softmax<axis=1>(x)", {}),
    "its default axis": (11, "y = Softmax(x)", {}),
    "log softmax": (11, "y = LogSoftmax<axis=2>(x)", {}),
    "hardmax": (11, "y = Hardmax<axis=1>(x)", {}),
    "axes of Unsqueeze and Squeeze": (
        11,
        "t = Unsqueeze<axes=[0]>(x) y = Squeeze<axes=[0]>(t)",
        {},
    ),
    "bounds of Clip": (6, "y = Clip<min=-0.5,max=0.25>(x)", {}),
    "Clip without bounds": (6, "y = Clip(x)", {}),
    "Clip of inputs": (11, "y = Clip(x, low)", {"low": np.array(-0.5, np.float32)}),
    "Resize of two inputs": (
        10,
        'y = Resize<mode="nearest">(x, s)',
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "Resize of regions": (
        11,
        'y = Resize<mode="linear",coordinate_transformation_mode="align_corners">(x, r, s)',
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "spatial batch norm": (7, "y = BatchNormalization<spatial=1>(x, g, g, g, g)", {"g": ONES}),
    "batch norm": (9, "y = BatchNormalization(x, g, g, g, g)", {"g": ONES}),
    "ratio of Dropout": (7, "y = Dropout<ratio=0.3>(x)", {}),
    "Dropout": (10, "y = Dropout(x)", {}),
    "scales of Upsample": (7, "y = Upsample<scales=[1.0,1.0,2.0,3.0]>(x)", {}),
    "Upsample of scales": (9, "y = Upsample(x, s)", {"s": np.array([1, 1, 2, 3], np.float32)}),
    "pads of Pad": (2, "y = Pad<pads=[0,0,1,2,0,0,0,1],value=1.5>(x)", {}),
    "starts and ends of Slice": (9, "y = Slice<axes=[2],starts=[1],ends=[-1]>(x)", {}),
    "axes of ReduceSum": (11, "y = ReduceSum<axes=[1,3],keepdims=0>(x)", {}),
    "axes of ReduceMax": (13, "y = ReduceMax<axes=[-1]>(x)", {}),
    "parts of Split": (11, "y, z = Split<axis=1,split=[1,2]>(x)", {}),
    "ends of Flatten": (9, "y = Flatten<axis=2>(x)", {}),
    "k of TopK": (9, "y, i = TopK<k=2,axis=3>(x)", {}),
    "types of Cast": (9, "t = Cast<to=7>(x) y = Cast<to=1>(t)", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_older_meanings(name: str) -> None:
    version, body, weights = CASES[name]
    outputs = "float[a,b,c,d] y"
    outputs += (
        ", float[e,f,g,h] z" if "z =" in body else ", int64[e,f,g,h] i" if "i =" in body else ""
    )
    model = onnx_model(f"g ({IMAGE}) => ({outputs}) {{ {body} }}", version, **weights)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    verdict = judge(model, [{"x": X}])
    assert verdict.status == "passed", verdict
