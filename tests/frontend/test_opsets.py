"""Operators as older operator sets define them, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from fuzz.judge import judge

X = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
ONES = np.ones(3, np.float32)


def scales(rows: float, columns: float) -> np.ndarray:
    return np.array([1, 1, rows, columns], np.float32)


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
    "Resize of positions between elements": (10, "y = Resize(x, s)", {"s": scales(1.5, 1.3)}),
    "Resize to fewer elements": (10, "y = Resize(x, s)", {"s": scales(0.6, 0.6)}),
    "Resize of more rows and fewer columns": (10, "y = Resize(x, s)", {"s": scales(1.5, 0.6)}),
    "Resize by computed scales": (
        10,
        "t = Shape(x) u = Cast<to=1>(t) v = Div(u, u) s = Mul(v, k) y = Resize(x, s)",
        {"k": scales(1.5, 0.6)},
    ),
    "linear Resize": (10, 'y = Resize<mode="linear">(x, s)', {"s": scales(2, 1.5)}),
    "linear Resize to fewer": (10, 'y = Resize<mode="linear">(x, s)', {"s": scales(0.5, 0.6)}),
    "linear Upsample": (7, 'y = Upsample<mode="linear",scales=[1.0,1.0,2.0,3.0]>(x)', {}),
    "linear Upsample of scales": (9, 'y = Upsample<mode="linear">(x, s)', {"s": scales(2, 1.5)}),
    "Resize as TensorFlow 1 did": (
        11,
        'y = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn">(x, r, s)',
        {"r": np.zeros(0, np.float32), "s": scales(1.5, 2)},
    ),
    "Resize of crops": (
        11,
        """y = Resize<mode="linear",coordinate_transformation_mode="tf_crop_and_resize",
            extrapolation_value=0.5>(x, r, s)""",
        {"r": np.array([0, 0, 0.1, 0.2, 1, 1, 0.9, 1.2], np.float32), "s": scales(1.5, 2)},
    ),
    "blocks of DepthToSpace": (
        10,
        "t = Concat<axis=1>(x, x, x, x) y = DepthToSpace<blocksize=2>(t)",
        {},
    ),
    "statistics of BatchNormalization": (
        7,
        "y = BatchNormalization<epsilon=0.1,momentum=0.5>(x, g, h, h, g)",
        {"g": np.array([1, 2, 3], np.float32), "h": np.array([0, 1, 2], np.float32)},
    ),
    "first ReduceSum": (1, "y = ReduceSum<axes=[1,3]>(x)", {}),
    "first Pad": (2, 'y = Pad<mode="reflect",pads=[0,0,1,2,0,0,0,1]>(x)', {}),
    "padding that counts": (
        7,
        "y = AveragePool<kernel_shape=[2,2],pads=[1,1,0,0],count_include_pad=1>(x)",
        {},
    ),
    "windows beyond the end": (
        10,
        "y = AveragePool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(x)",
        {},
    ),
    "bias of Gemm": (
        7,
        "t = Flatten(x) y = Gemm<transB=1,alpha=0.5,beta=2.0>(t, w, c)",
        {"w": np.ones((2, 48), np.float32), "c": np.array([1, 2], np.float32)},
    ),
    "steps of Slice": (
        10,
        "y = Slice(x, a, b, c, d)",
        {k: np.array([v]) for k, v in (("a", 3), ("b", -100), ("c", 2), ("d", -1))},
    ),
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
