"""Kernels in CUDA C++ compute what ONNX Runtime does, emulated on the CPU."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model, quantized_model
from emulation import BOUNDS, check_on_cpu, more, needs_emulation, random, run_on_cpu

from relaxc.layout import Precision
from relaxc.targets.cuda.kernels import tilings
from relaxc.targets.cuda.kernels.tilings import Tiling
from relaxc.targets.cuda.machine import GPUS

pytestmark = needs_emulation
precisions = pytest.mark.parametrize("precision", BOUNDS)


@precisions
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(33, 65, 30), *(more(*s) for s in ((64, 96, 128), (1, 200, 70), (130, 64, 64)))],
)
def test_products_with_weights(precision: Precision, rows: int, depth: int, columns: int) -> None:
    model = onnx_model(
        f"""g (float[{rows},{depth}] x) => (float[{rows},{columns}] y) {{
            a = MatMul(x, w)  b = Add(a, v)  c = Sigmoid(b)  y = Mul(b, c)
        }}""",
        w=random(depth, columns) / 8,
        v=random(columns, seed=1),
    )
    feed = {"x": random(rows, depth, seed=2)}
    check_on_cpu(model, feed, precision, kernels={"matmul"}, rtol=BOUNDS[precision])


@precisions
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(64, 64, 128), *(more(*s) for s in ((17, 33, 20), (40, 72, 32), (64, 128, 256)))],
)
def test_products_of_activations(precision: Precision, rows: int, depth: int, columns: int) -> None:
    model = onnx_model(
        f"""g (float[2,2,{rows},{depth}] a, float[2,2,{depth},{columns}] b)
            => (float[2,2,{rows},{columns}] y) {{ c = MatMul(a, b)  y = Tanh(c) }}"""
    )
    feed = {"a": random(2, 2, rows, depth) / 8, "b": random(2, 2, depth, columns, seed=1)}
    check_on_cpu(model, feed, precision, kernels={"matmul"}, rtol=BOUNDS[precision])


# Kernels have them as their bits: other names for the same memory, or converted by one kernel.
@pytest.mark.parametrize(("precision", "names"), [("bfloat16", set()), ("float32", {"convert"})])
def test_bfloat16_goes_straight_into_kernels(precision: Precision, names: set[str]) -> None:
    model = onnx_model(
        "g (float[n,64] x) => (float[n,32] y) { a = MatMul(x, w)  y = Tanh(a) }",
        w=random(64, 32) / 8,
    )
    x = random(40, 64).astype(ml_dtypes.bfloat16)
    (actual,), used = run_on_cpu(model, {"x": x}, precision, "bfloat16")
    assert actual.dtype == x.dtype and used == {"matmul"} | names
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(
        None, {"x": x.astype(np.float32)}
    )
    np.testing.assert_allclose(actual.astype(np.float32), expected, rtol=0, atol=1.5e-2)


JOINT = Tiling(64, 32, 64, 32, 4, is_joint=True)
TILINGS = {
    "four warps": JOINT,
    "eight warps": Tiling(128, 64, 64, 64, 4, is_joint=True),
    "128 rows per four warps": Tiling(128, 32, 128, 32, 3, is_joint=True),
    "a cluster": Tiling(32, 32, 16, 16, split=4),
    "a cluster of four warps each": replace(JOINT, split=2),
}
ALONE = Tiling(64, 64, 64, 64, 4, True, 1, 1, 1)
BELOW = Tiling(128, 32, 64, 32, 4, True, 1, 2, 1)
BESIDE = Tiling(64, 32, 64, 32, 3, True, 1, 1, 2)
FOUR = Tiling(64, 32, 64, 32, 3, True, 1, 2, 2)


@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS.keys())
@pytest.mark.parametrize("precision", ["float16", more("bfloat16")])
def test_tilings(monkeypatch: pytest.MonkeyPatch, precision: Precision, tiling: Tiling) -> None:
    check_tiling(monkeypatch, precision, tiling, 330)


# The copy engine fetches rows of whole vectors; others are copied by threads.
@pytest.mark.parametrize("precision", ["float16", more("bfloat16")])
@pytest.mark.parametrize(
    ("tiling", "depth"),
    [(BELOW, 266), (FOUR, 264), *(more(*c) for c in ((ALONE, 264), (ALONE, 266), (BESIDE, 264)))],
)
def test_streamed_tilings(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, tiling: Tiling, depth: int
) -> None:
    # So few multiprocessors that blocks compute several tiles of the result.
    monkeypatch.setitem(GPUS, "sm_90", replace(GPUS["sm_90"], multiprocessors=2))
    check_tiling(monkeypatch, precision, tiling, depth)


# Of float32 numbers, what TF32 leaves is multiplied, too.
@pytest.mark.parametrize(
    ("tiling", "depth"),
    [(BELOW, 266), (FOUR, 264), *(more(*c) for c in ((ALONE, 8), (ALONE, 266), (BESIDE, 264)))],
)
def test_streamed_tilings_with_rests(
    monkeypatch: pytest.MonkeyPatch, tiling: Tiling, depth: int
) -> None:
    monkeypatch.setitem(GPUS, "sm_90", replace(GPUS["sm_90"], multiprocessors=2))
    check_tiling(monkeypatch, "float32", replace(tiling, has_rests=True), depth)


def check_tiling(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, tiling: Tiling, depth: int
) -> None:
    monkeypatch.setattr(tilings, "choose_tiling", lambda *_args, **_options: tiling)
    model = onnx_model(
        f"""g (float[150,{depth}] x) => (float[150,72] y) {{ a = MatMul(x, w)  y = Add(a, v) }}""",
        w=random(depth, 72) / 8,
        v=random(72, seed=1),
    )
    feed = {"x": random(150, depth, seed=2)}
    check_on_cpu(model, feed, precision, kernels={"matmul"}, rtol=BOUNDS[precision])


@pytest.mark.parametrize("split", [1, 2])
def test_convolutions_of_four_warps(monkeypatch: pytest.MonkeyPatch, split: int) -> None:
    tiling = replace(JOINT, split=split)
    monkeypatch.setattr(tilings, "choose_tiling", lambda *_args, **_options: tiling)
    model = onnx_model(
        """g (float[2,16,9,11] x) => (float[2,24,h,w] y) {
            a = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(x, w1, v)  y = Relu(a)
        }""",
        w1=random(24, 16, 3, 3) / 8,
        v=random(24, seed=1),
    )
    feed = {"x": random(2, 16, 9, 11, seed=3)}
    check_on_cpu(model, feed, "float16", kernels={"conv2d"}, rtol=BOUNDS["float16"])


# The copy engine fetches patches of 64 channels, which end within rows and images.
@pytest.mark.parametrize(
    ("tiling", "geometry"),
    [
        (BELOW, "kernel_shape=[3,3],pads=[1,1,1,1]"),
        (FOUR, "kernel_shape=[3,2],pads=[0,1,2,0],strides=[2,1],dilations=[1,2]"),
        more(BESIDE, "kernel_shape=[1,1],strides=[2,2]"),
    ],
)
def test_convolutions_by_the_copy_engine(
    monkeypatch: pytest.MonkeyPatch, tiling: Tiling, geometry: str
) -> None:
    monkeypatch.setitem(GPUS, "sm_90", replace(GPUS["sm_90"], multiprocessors=2))
    monkeypatch.setattr(tilings, "choose_tiling", lambda *_args, **_options: tiling)
    kernel = [int(n) for n in geometry.split("[")[1].split("]")[0].split(",")]
    model = onnx_model(
        f"""g (float[3,64,9,11] x) => (float[3,24,h,w] y) {{
            a = Conv<{geometry}>(x, w1, v)  y = Relu(a)
        }}""",
        w1=random(24, 64, *kernel) / 8,
        v=random(24, seed=1),
    )
    feed = {"x": random(3, 64, 9, 11, seed=3)}
    check_on_cpu(model, feed, "float16", kernels={"conv2d"}, rtol=BOUNDS["float16"])


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("depth", [256, 70, more(264)])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_few_rows(precision: Precision, rows: int, depth: int) -> None:
    model = onnx_model(
        f"""g (float[{rows},{depth}] x) => (float[{rows},30] y) {{
            a = MatMul(x, w)  b = Add(a, v)  y = Relu(b)
        }}""",
        w=random(depth, 30) / 8,
        v=random(30, seed=1),
    )
    feed = {"x": random(rows, depth, seed=2)}
    check_on_cpu(model, feed, precision, kernels={"matvec"}, rtol=BOUNDS[precision])


@pytest.mark.parametrize("channels", [24, 3])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_pooling(precision: Precision, channels: int) -> None:
    model = onnx_model(
        f"""g (float[2,{channels},9,12] x) => (float[2,24,1,1] y) {{
            a = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(x)
            b = AveragePool<kernel_shape=[2,3],pads=[1,1,0,1]>(a)
            c = Conv<kernel_shape=[1,1]>(b, w)  d = Add(c, c)  y = GlobalAveragePool(d)
        }}""",
        w=random(24, channels, 1, 1),
    )
    feed = {"x": random(2, channels, 9, 12, seed=3)}
    used = {"pool2d", "mean2d", "conv2d"}
    check_on_cpu(model, feed, precision, kernels=used, rtol=BOUNDS[precision])


@pytest.mark.parametrize("size", [40, 333, 1100])
@pytest.mark.parametrize("op", ["softmax", "layer norm"])
def test_rows(op: str, size: int) -> None:
    node = "Softmax<axis=-1>(a)"
    if op == "layer norm":
        node = "LayerNormalization<axis=-1,epsilon=1e-5>(a, scale, offset)"
    model = onnx_model(
        f"""g (float[3,7,{size}] x) => (float[3,7,{size}] y) {{
            a = Mul(x, two)  b = {node}  y = Add(b, x)
        }}""",
        two=np.array(2, np.float32),
        scale=random(size, seed=3),
        offset=random(size, seed=4),
    )
    feed = {"x": random(3, 7, size)}
    check_on_cpu(model, feed, "float32", kernels={"norm"}, rtol=BOUNDS["float32"])


@precisions
def test_rows_known_at_run_time(precision: Precision) -> None:
    model = onnx_model(
        "g (float[n,32] x) => (float[n,48] y) { a = MatMul(x, w)  y = Relu(a) }", w=random(32, 48)
    )
    for rows in (1, 70):
        feed = {"x": random(rows, 32)}
        check_on_cpu(model, feed, precision, kernels={"matmul"}, rtol=BOUNDS[precision])


@precisions
@pytest.mark.parametrize(
    ("channels", "attributes", "height"),
    [
        (3, "kernel_shape=[7,7],strides=[2,2],pads=[3,3,3,3]", 17),
        more(16, "kernel_shape=[3,3],pads=[1,1,1,1]", 9),
        more(32, "kernel_shape=[3,3],pads=[2,1,2,1],dilations=[2,1]", 8),
        more(16, "kernel_shape=[1,1],strides=[2,2]", 9),
    ],
)
def test_convolutions(precision: Precision, channels: int, attributes: str, height: int) -> None:
    taps = int(attributes[len("kernel_shape=[")])
    model = onnx_model(
        f"""g (float[2,{channels},{height},11] x) => (float[2,24,h,w] y) {{
            a = Conv<{attributes}>(x, w1, v)  b = Relu(a)
            c = Conv<kernel_shape=[1,1]>(b, w2)  y = Add(c, b)
        }}""",
        w1=random(24, channels, taps, taps) / 8,
        v=random(24, seed=1),
        w2=random(24, 24, 1, 1, seed=2) / 8,
    )
    feed = {"x": random(2, channels, height, 11, seed=3)}
    check_on_cpu(model, feed, precision, kernels={"conv2d"}, rtol=BOUNDS[precision])


def check_bytes(model: onnx.ModelProto, feed: dict[str, np.ndarray], kernels: set[str]) -> None:
    """Results are those of ONNX Runtime, but for a step of a few."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (want,) = session.run(None, feed)
    (got,), used = run_on_cpu(model, feed, "float32")
    assert kernels <= used
    steps = np.abs(got.astype(np.int32) - want.astype(np.int32))
    assert want.dtype == got.dtype == np.uint8 and len(np.unique(want)) > 20
    assert steps.max() <= 1 and (steps > 0).mean() < 0.01


@pytest.mark.parametrize("rows", [2, 70])
@pytest.mark.parametrize("depth", [96, more(77)])
def test_products_of_bytes(rows: int, depth: int) -> None:
    model = quantized_model(
        f"""g (float[{rows},{depth}] x) => (uint8[{rows},40] y) {{
            q = QuantizeLinear(x, scale, zero)  d = DequantizeLinear(q, scale, zero)
            w=  a = MatMul(d, w)  b = Add(a, v)  c = Relu(b)
            y = QuantizeLinear(c, scale2, zero2)
        }}""",
        w=random(depth, 40) / 8,
        v=random(40, seed=1),
    )
    feed = {"x": random(rows, depth, seed=2)}
    check_bytes(model, feed, {"matmul"} if rows > 4 else {"matvec"})


@pytest.mark.parametrize(
    "tiling", [JOINT, ALONE, more(BELOW), more(FOUR)], ids=["joint", "streamed", "below", "four"]
)
def test_tilings_of_bytes(monkeypatch: pytest.MonkeyPatch, tiling: Tiling) -> None:
    monkeypatch.setitem(GPUS, "sm_90", replace(GPUS["sm_90"], multiprocessors=2))
    monkeypatch.setattr(tilings, "choose_tiling", lambda *_args, **_options: tiling)
    model = quantized_model(
        """g (float[150,400] x) => (uint8[150,72] y) {
            q = QuantizeLinear(x, scale, zero)  d = DequantizeLinear(q, scale, zero)
            w=  a = MatMul(d, w)  y = QuantizeLinear(a, scale2, zero)
        }""",
        w=random(400, 72) / 8,
    )
    check_bytes(model, {"x": random(150, 400, seed=2)}, {"matmul"})


@pytest.mark.parametrize("channels", [16, 3, more(20)])
def test_convolutions_of_bytes(channels: int) -> None:
    model = quantized_model(
        f"""g (float[2,{channels},10,12] x) => (uint8[2,24,h,w] y) {{
            q = QuantizeLinear(x, scale, zero)  d = DequantizeLinear(q, scale, zero)
            w1=  a = Conv<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(d, w1, v)
            b = Relu(a)
            q2 = QuantizeLinear(b, scale2, zero2)  d2 = DequantizeLinear(q2, scale2, zero2)
            p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(d2)
            w2=  c = Conv<kernel_shape=[1,1]>(p, w2)  r = Add(c, p)
            y = QuantizeLinear(r, scale2, zero)
        }}""",
        w1=random(24, channels, 3, 3) / 4,
        w2=random(24, 24, 1, 1, seed=1) / 4,
        v=random(24, seed=2),
    )
    feed = {"x": random(2, channels, 10, 12, seed=3)}
    check_bytes(model, feed, {"conv2d"} | ({"interleave"} if channels == 3 else set()))


# Of 64 channels, tiles have rows of 64 bytes: those of pixels, and of a matrix.
@pytest.mark.parametrize("tiling", [BELOW, more(FOUR)], ids=["below", "four"])
def test_narrow_tiles_of_bytes(monkeypatch: pytest.MonkeyPatch, tiling: Tiling) -> None:
    monkeypatch.setitem(GPUS, "sm_90", replace(GPUS["sm_90"], multiprocessors=2))
    monkeypatch.setattr(tilings, "choose_tiling", lambda *_args, **_options: tiling)
    model = quantized_model(
        """g (float[2,64,10,12] x) => (uint8[2,24,h,w] y) {
            q = QuantizeLinear(x, scale2, zero2)  d = DequantizeLinear(q, scale2, zero2)
            w1=  a = Conv<kernel_shape=[3,3],strides=[1,2],pads=[1,1,1,1]>(d, w1, v)
            b = Relu(a)
            q2 = QuantizeLinear(b, scale, zero2)  d2 = DequantizeLinear(q2, scale, zero2)
            w2=  c = Conv<kernel_shape=[1,1]>(d2, w2)  r = Add(c, d2)  e = Relu(r)
            q3 = QuantizeLinear(e, scale2, zero)  d3 = DequantizeLinear(q3, scale2, zero)
            w3=  f = Conv<kernel_shape=[1,1]>(d3, w3)  y = QuantizeLinear(f, scale2, zero)
        }""",
        w1=random(64, 64, 3, 3) / 16,
        w2=random(64, 64, 1, 1, seed=1) / 8,
        w3=random(24, 64, 1, 1, seed=4) / 8,
        v=random(64, seed=2),
    )
    check_bytes(model, {"x": random(2, 64, 10, 12, seed=3)}, {"conv2d"})
