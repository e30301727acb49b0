"""Kernels of bfloat16, against NumPy with the same roundings and against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import conv_model, onnx_model
from kernels import run_model

import relaxc
from relaxc import cpu
from relaxc.errors import OptionError
from relaxc.targets.llvm.kernels.arithmetic import BFLOAT16, to_bfloat16

needs_bfloat16 = pytest.mark.skipif(
    "avx512bf16" not in cpu.features(), reason="this CPU has no dot products of bfloat16"
)
RNG = np.random.default_rng(0)


def _random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """What bfloat16 keeps of float32 values."""
    return (to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)


def _check(model: onnx.ModelProto, feed: dict[str, np.ndarray], exact: np.ndarray) -> None:
    """Against the emulation tightly, against float32 as far as eight bits go."""
    (actual,), _ = run_model(model, feed, precision="bfloat16")
    (float32,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    assert actual.dtype == np.float32 and actual.shape == float32.shape
    np.testing.assert_allclose(actual, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
    difference = np.linalg.norm(actual - float32) / np.linalg.norm(float32)
    assert 1e-5 < difference < 1e-2


def test_rounding_is_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-7, 3.4e38, np.inf], np.float32)
    expected = np.array([1.0, 1.0, 1 + 2**-6, -1 - 2**-7, np.inf, np.inf], np.float32)
    np.testing.assert_array_equal(rounded(values), expected)
    assert np.isnan(rounded(np.array([np.nan, -np.nan], np.float32))).all()


def test_weights_are_packed_in_pairs() -> None:
    weight = np.arange(8, dtype=np.float32).reshape(4, 2)
    packed = BFLOAT16.pack(weight).view(np.uint16)
    np.testing.assert_array_equal(
        packed, to_bfloat16(np.array([[0, 2, 1, 3], [4, 6, 5, 7]], np.float32))
    )


@needs_bfloat16
@pytest.mark.parametrize(
    "rows, depth, columns", [(1, 6, 7), (49, 96, 31), (130, 10, 16), (64, 2112, 20)]
)
def test_matmul(rows: int, depth: int, columns: int) -> None:
    x, w, c = _random(rows, depth), _random(depth, columns), _random(columns)
    model = onnx_model(
        f"""g (float[{rows},{depth}] x) => (float[{rows},{columns}] y) {{
            a = MatMul (x, w)
            y = Add (a, c)
        }}""",
        w=w,
        c=c,
    )
    _check(model, {"x": x}, rounded(x).astype(np.float64) @ rounded(w) + c)


@needs_bfloat16
@pytest.mark.parametrize("rows", [1, 9, 40])
def test_symbolic_rows_between_moves(rows: int) -> None:
    x, w, v = _random(rows, 2, 12), _random(24, 16), _random(8, 10)
    model = onnx_model(
        """g (float[n,2,12] x) => (float[m,2,10] y) {
            a = Reshape (x, rows)
            b = MatMul (a, w)
            c = Relu (b)
            d = Reshape (c, halves)
            y = MatMul (d, v)
        }""",
        w=w,
        v=v,
        rows=np.array([-1, 24]),
        halves=np.array([-1, 2, 8]),
    )
    hidden = np.maximum(rounded(x).reshape(rows, 24).astype(np.float64) @ rounded(w), 0)
    hidden = rounded(hidden.astype(np.float32)).reshape(rows, 2, 8)
    (actual,), kernels = run_model(model, {"x": x}, precision="bfloat16")
    assert "matmul" in kernels
    exact = hidden.astype(np.float64) @ rounded(v)
    np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-3 * np.abs(exact).max())


@needs_bfloat16
def test_odd_depth_is_multiplied_in_float32() -> None:
    x, w = _random(9, 5), _random(5, 16)
    model = onnx_model("g (float[9,5] x) => (float[9,16] y) { y = MatMul (x, w) }", w=w)
    (actual,), _ = run_model(model, {"x": x}, precision="bfloat16")
    np.testing.assert_allclose(actual, x @ w, rtol=1e-5, atol=1e-5)


@needs_bfloat16
@pytest.mark.parametrize(
    "channels, outputs, kernel, stride",
    [
        (3, 24, 7, 2),
        (3, 16, 3, 2),
        (4, 16, 4, 2),
        (1, 16, 5, 4),
        (32, 32, 1, 1),
        (24, 40, 1, 1),
        (16, 48, 3, 2),
        (64, 16, 5, 3),
        (32, 32, 5, 1),
    ],
)
def test_convolution(channels: int, outputs: int, kernel: int, stride: int) -> None:
    x, w = _random(2, channels, 13, 11), _random(outputs, channels, kernel, kernel)
    pad = kernel // 2
    model = onnx_model(
        f"""g (float[2,{channels},13,11] x) => (float[n,c,h,w] y) {{
            y = Conv <kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}],
                      pads=[{pad},{pad},{pad},{pad}]> (x, w)
        }}""",
        w=w,
    )
    padded = np.pad(rounded(x).astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))
    exact = np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], rounded(w))
    _check(model, {"x": x}, exact)


@needs_bfloat16
def test_a_network_of_every_kind_of_kernel() -> None:
    model = onnx_model(
        """g (float[1,3,32,32] x) => (float[n,k] y) {
            a = Conv <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x, stem)
            b = Relu (a)
            c = Conv <kernel_shape=[3,3], group=32, pads=[1,1,1,1]> (b, depthwise)
            d = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (c, winograd)
            e = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (d)
            f = AveragePool <kernel_shape=[2,2], strides=[2,2]> (d)
            g = Concat <axis=1> (e, f)
            h = ConvTranspose <kernel_shape=[2,2], strides=[2,2]> (g, up)
            i = GlobalAveragePool (h)
            j = Flatten (i)
            y = MatMul (j, head)
        }""",
        stem=_random(32, 3, 3, 3),
        depthwise=_random(32, 1, 3, 3),
        winograd=_random(32, 32, 3, 3),
        up=_random(64, 48, 2, 2),
        head=_random(48, 10),
    )
    feed = {"x": _random(1, 3, 32, 32)}
    (actual,), kernels = run_model(model, feed, precision="bfloat16")
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    assert {"conv2d_direct", "conv2d_depthwise", "conv2d_winograd"} <= kernels
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 3e-2


def test_a_cpu_without_bfloat16_is_refused(tmp_path: Path) -> None:
    for target in ("llvm -mcpu=x86-64-v3", "llvm -mtriple=aarch64-linux-gnu"):
        options = relaxc.CompileOptions(target=target, precision="bfloat16")
        with pytest.raises(OptionError, match="needs the CPU feature `avx512bf16`"):
            relaxc.compile(conv_model(), tmp_path / "a.rxc", options)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown precision `bf16`.*use .*`bfloat16`"):
        relaxc.CompileOptions(precision="bf16")  # type: ignore[arg-type]


@needs_bfloat16
@pytest.mark.parametrize("queries, keys, depth, width", [(16, 16, 32, 32), (9, 37, 24, 40)])
def test_attention(queries: int, keys: int, depth: int, width: int) -> None:
    model = onnx_model(
        f"""g (float[1,3,{queries},{depth}] q, float[1,3,{keys},{depth}] k,
               float[1,3,{keys},{width}] v) => (float[1,3,{queries},{width}] y) {{
            t = Transpose <perm=[0,1,3,2]> (k)
            s = MatMul (q, t)
            m = Mul (s, scale)
            p = Softmax <axis=-1> (m)
            y = MatMul (p, v)
        }}""",
        scale=np.array(0.25, np.float32),
    )
    feed = {
        "q": _random(1, 3, queries, depth),
        "k": _random(1, 3, keys, depth),
        "v": _random(1, 3, keys, width),
    }
    (actual,), kernels = run_model(model, feed, precision="bfloat16")
    assert "attention" in kernels
    q, k, v = (rounded(a).astype(np.float64) for a in feed.values())
    scores = 0.25 * np.einsum("bhqd,bhkd->bhqk", q, k)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    weights = rounded(powers.astype(np.float32)).astype(np.float64)
    exact = np.einsum("bhqk,bhkd->bhqd", weights, v) / powers.sum(-1, keepdims=True)
    # A power that lies between two bfloat16 may be rounded to the other one: 2**-9 of one weight.
    np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-3 * np.abs(exact).max())


@needs_bfloat16
def test_gelu_of_a_rounded_result() -> None:
    x, w, v = _random(40, 32), _random(32, 48), _random(48, 16)
    model = onnx_model(
        """g (float[40,32] x) => (float[40,16] y) {
            a = MatMul (x, w)
            b = Div (a, root)
            c = Erf (b)
            d = Add (c, one)
            e = Mul (a, d)
            f = Mul (e, half)
            y = MatMul (f, v)
        }""",
        w=w,
        v=v,
        root=np.array(2**0.5, np.float32),
        one=np.array(1, np.float32),
        half=np.array(0.5, np.float32),
    )
    (actual,), _ = run_model(model, {"x": x}, precision="bfloat16")
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 5e-3
