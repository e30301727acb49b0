"""Products of integers against ONNX Runtime, from models that are quantized already."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model, run_model

# With and without an instruction for dot products of bytes.
CPUS = (*TARGETS, "llvm -mcpu=skylake-avx512")
SCALE, ZERO = np.array(0.02, np.float32), np.array(120, np.uint8)


def check(
    model: onnx.ModelProto, feed: dict[str, np.ndarray], target: str, step: float, kernel: str
) -> None:
    """Within one step of the result's quantization, and nearly always equal."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (expected,) = session.run(None, feed)
    (actual,), kernels = run_model(model, feed, target)
    assert kernel in kernels
    assert actual.shape == expected.shape and expected.std() > 5 * step
    error = np.abs(actual - expected)
    assert error.max() <= step * 1.001
    assert (error > step / 2).mean() < 0.01


def convolution(
    rng: np.random.Generator, shape: tuple[int, ...], weight: tuple[int, ...], attributes: str
) -> onnx.ModelProto:
    """x -> quantize -> convolution, bias, residual add, ReLU -> quantize -> convolution 1x1."""
    out = weight[0]
    integers = rng.integers(-127, 128, weight).astype(np.int8)
    scale = rng.uniform(0.5, 1.5, out) / np.sqrt(np.prod(weight[1:])) / 40
    return onnx_model(
        f"""g (float[{",".join(map(str, shape))}] x) => (float[n,c,h,w] y) {{
            xq = QuantizeLinear(x, sx, zx)
            xd = DequantizeLinear(xq, sx, zx)
            wd = DequantizeLinear<axis=0>(wq, sw, zw)
            a = Conv<{attributes}>(xd, wd, bias)
            r = Relu(a)
            rq = QuantizeLinear(r, sy, zy)
            rd = DequantizeLinear(rq, sy, zy)
            vd = DequantizeLinear<axis=0>(vq, sv, zv)
            b = Conv(rd, vd)
            c = Add(b, rd)
            cq = QuantizeLinear(c, sy, zy)
            y = DequantizeLinear(cq, sy, zy)
        }}""",
        sx=SCALE,
        zx=ZERO,
        wq=integers,
        sw=scale.astype(np.float32),
        zw=np.zeros(out, np.int8),
        bias=rng.standard_normal(out).astype(np.float32),
        sy=np.array(0.03, np.float32),
        zy=np.array(3, np.uint8),
        vq=rng.integers(-127, 128, (out, out, 1, 1)).astype(np.int8),
        sv=np.full(out, 0.01 / np.sqrt(out), np.float32),
        zv=np.zeros(out, np.int8),
    )


@pytest.mark.parametrize("target", CPUS)
@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        ((1, 3, 17, 13), (24, 3, 7, 7), "strides=[2,2], pads=[3,3,3,3]"),
        ((1, 4, 9, 37), (24, 4, 3, 3), "pads=[1,1,1,1]"),  # a word per pixel
        ((1, 20, 9, 9), (36, 20, 3, 3), "pads=[1,1,1,1]"),
        ((2, 64, 7, 7), (32, 64, 1, 1), "strides=[1,1]"),
        ((1, 64, 8, 8), (64, 32, 3, 3), "group=2, pads=[1,1,1,1]"),
        ((1, 32, 8, 8), (32, 1, 3, 3), "group=32, pads=[1,1,1,1]"),
        ((2, 40, 15, 23), (40, 1, 5, 5), "group=40, pads=[2,2,2,2], strides=[2,2]"),
        ((1, 20, 20, 17), (20, 1, 3, 5), "group=20, pads=[1,0,1,4], dilations=[1,2]"),
        ((1, 16, 9, 2), (16, 1, 3, 1), "group=16"),  # too narrow for four pixels
        ((1, 24, 8, 8), (48, 6, 3, 3), "group=4, pads=[1,0,0,1]"),
        ((1, 5, 8, 8), (7, 5, 2, 3), "dilations=[2,1]"),
    ],
)
def test_convolutions(
    shape: tuple[int, ...], weight: tuple[int, ...], attributes: str, target: str
) -> None:
    rng = np.random.default_rng(0)
    model = convolution(rng, shape, weight, attributes)
    feed = {"x": rng.standard_normal(shape).astype(np.float32)}
    check(model, feed, target, 0.03, kernel="conv2d_integer")


@pytest.mark.parametrize("target", CPUS)
@pytest.mark.parametrize(
    ("channels", "attributes"),
    [
        (32, "strides=[2,2]"),
        (18, "strides=[2,1], pads=[1,0,1,0], dilations=[1,2]"),
    ],
)
def test_transposed_convolutions(channels: int, attributes: str, target: str) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        f"""g (float[1,{channels},7,9] x) => (float[n,c,h,w] y) {{
            xq = QuantizeLinear(x, sx, zx)
            xd = DequantizeLinear(xq, sx, zx)
            wd = DequantizeLinear<axis=1>(wq, sw, zw)
            a = ConvTranspose<{attributes}>(xd, wd, bias)
            r = Relu(a)
            rq = QuantizeLinear(r, sy, zy)
            y = DequantizeLinear(rq, sy, zy)
        }}""",
        sx=SCALE,
        zx=ZERO,
        wq=rng.integers(-127, 128, (channels, 20, 3, 2)).astype(np.int8),
        sw=(rng.uniform(0.5, 1.5, 20) / np.sqrt(channels) / 40).astype(np.float32),
        zw=np.zeros(20, np.int8),
        bias=rng.standard_normal(20).astype(np.float32),
        sy=np.array(0.03, np.float32),
        zy=np.array(3, np.uint8),
    )
    feed = {"x": rng.standard_normal((1, channels, 7, 9)).astype(np.float32)}
    check(model, feed, target, 0.03, kernel="conv2d_transpose_integer")


@pytest.mark.parametrize("target", CPUS)
@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(1, 64, 100), (7, 48, 16), (33, 128, 70), (5, 30, 40)]
)
def test_products(rows: int, depth: int, columns: int, target: str) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        f"""g (float[{rows},{depth}] x) => (float[{rows},{columns}] y) {{
            xq = QuantizeLinear(x, sx, zx)
            xd = DequantizeLinear(xq, sx, zx)
            wd = DequantizeLinear<axis=1>(wq, sw, zw)
            a = MatMul(xd, wd)
            b = Add(a, bias)
            bq = QuantizeLinear(b, sy, zy)
            y = DequantizeLinear(bq, sy, zy)
        }}""",
        sx=SCALE,
        zx=ZERO,
        wq=rng.integers(-127, 128, (depth, columns)).astype(np.int8),
        sw=(rng.uniform(0.5, 1.5, columns) / np.sqrt(depth) / 40).astype(np.float32),
        zw=np.zeros(columns, np.int8),
        bias=rng.standard_normal(columns).astype(np.float32),
        sy=np.array(0.05, np.float32),
        zy=np.array(128, np.uint8),
    )
    feed = {"x": rng.standard_normal((rows, depth)).astype(np.float32)}
    check(model, feed, target, 0.05, kernel="matmul_integer" if depth % 4 == 0 else "matmul")


@pytest.mark.parametrize(
    "body",
    [
        "r = Reshape(d, t)  y = Relu(r)",
        "r = Reshape(d, t)  y = MatMul(r, w)",
        "y = Transpose<perm=[0,2,1,3]>(d)",
        "c = Concat<axis=1>(d, d)  y = Relu(c)",
        "y = Softmax(d)",
        "y = Add(d, x)",
    ],
)
def test_rounding_clips_whoever_reads_it(body: str) -> None:
    """A zero point of zero is how exporters write ReLU."""
    model = onnx_model(
        f"""g (float[1,16,4,4] x) => (float[a] y) {{
            q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  {body}
        }}""",
        s=np.array(0.1, np.float32),
        z=np.array(0, np.uint8),
        t=np.array([16, 16]),
        w=np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32),
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = np.random.default_rng(0).standard_normal((1, 16, 4, 4)).astype(np.float32) * 3
    check_model(model, {"x": x})
