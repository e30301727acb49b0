"""What decoders need of kernels in CUDA C++, emulated on the CPU."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from builders import onnx_model
from emulation import BOUNDS, check_on_cpu, more, needs_emulation, random, run_on_cpu

from relaxc.layout import Precision

pytestmark = needs_emulation


@pytest.mark.parametrize(("rows", "depth", "precision"), [(3, 72, "float32"), (1, 264, "float16")])
def test_a_norm_and_gated_products(rows: int, depth: int, precision: Precision) -> None:
    model = onnx_model(
        f"""g (float[{rows},{depth}] x) => (float[{rows},40] y) {{
            h = LayerNormalization<axis=-1,epsilon=1e-5>(x, scale, offset)
            a = MatMul(h, w1)  s = Sigmoid(a)  g = Mul(a, s)
            b = MatMul(h, w2)  y = Mul(g, b)
        }}""",
        w1=random(depth, 40) / 8,
        w2=random(depth, 40, seed=1) / 8,
        scale=random(depth, seed=2),
        offset=random(depth, seed=3),
    )
    feed = {"x": random(rows, depth, seed=4)}
    _, used = run_on_cpu(model, feed, precision)
    assert used == {"matvec"}  # and no norm of its own
    check_on_cpu(model, feed, precision, kernels=used, rtol=2 * BOUNDS[precision])


@pytest.mark.parametrize("rows", [20, more(150)])
@pytest.mark.parametrize("precision", ["float16", more("float32")])
def test_gated_products_of_many_rows(precision: Precision, rows: int) -> None:
    model = onnx_model(
        f"""g (float[{rows},72] x, float[{rows},36] z) => (float[{rows},36] y) {{
            a = MatMul(x, w1)  s = Sigmoid(a)  g = Mul(a, s)  b = MatMul(x, w2)
            c = Mul(g, b)  y = Add(c, z)
        }}""",
        w1=random(72, 36) / 8,
        w2=random(72, 36, seed=1) / 8,
    )
    feed = {"x": random(rows, 72, seed=2), "z": random(rows, 36, seed=3)}
    _, used = run_on_cpu(model, feed, precision)
    assert used - {"convert"} == {"matmul"}  # and no product of its own, nor loops
    check_on_cpu(model, feed, precision, kernels=used, rtol=2 * BOUNDS[precision])


@pytest.mark.parametrize(("bits", "zero"), [(4, 0), (8, 3), more(4, 3)])
def test_weights_of_few_bits(bits: int, zero: int) -> None:
    rng, limit = np.random.default_rng(0), 1 << (bits - 1)
    weight = rng.integers(-limit, limit, (160, 24)).astype(np.int8)
    zeros = np.full((5, 24), zero, np.int8)
    zeros[1] = 0
    model = onnx_model(
        """g (float[2,160] x) => (float[2,24] y) {
            w = DequantizeLinear<axis=0,block_size=32>(q, s, z)  a = MatMul(x, w)  y = Relu(a)
        }""",
        opset=21,
        q=weight,
        s=(scale := (rng.random((5, 24)) / limit).astype(np.float32)),
        z=zeros,
    )
    feed = {"x": random(2, 160, seed=2)}
    (actual,), used = run_on_cpu(model, feed, "float16")
    assert used - {"convert"} == {"matvec"}
    # ONNX Runtime rounds the data as well: no reference.
    real = (weight - np.repeat(zeros, 32, 0).astype(np.float32)) * np.repeat(scale, 32, 0)
    expected = np.maximum(feed["x"] @ real, 0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-3 * float(expected.max()))


@pytest.mark.parametrize("rows", [2, more(40)])
def test_weights_of_float8_are_numbers_of_the_precision(rows: int) -> None:
    weight = (random(160, 24) * 20).astype(ml_dtypes.float8_e4m3fn)
    model = onnx_model(
        f"""g (float[{rows},160] x) => (float[{rows},24] y) {{
            w = DequantizeLinear<axis=0,block_size=32>(q, s)  a = MatMul(x, w)  y = Relu(a)
        }}""",
        opset=21,
        q=weight,
        s=np.full((5, 24), 1 / 64, np.float32),
    )
    feed = {"x": random(rows, 160, seed=2)}
    (actual,), _ = run_on_cpu(model, feed, "float16")
    expected = np.maximum(feed["x"] @ weight.astype(np.float32) / 64, 0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-3 * float(expected.max()))


@pytest.mark.parametrize("precision", ["float16", more("float32")])
@pytest.mark.parametrize(("words", "past"), [(2, 70), more(40, 0)])
def test_a_decoder_turns_positions(precision: Precision, words: int, past: int) -> None:
    model = onnx_model(
        f"""g (float[1,2,{words},64] x, float[{words},64] c, float[{words},64] s,
                float[1,2,{max(past, 1)},64] k, float[1,2,{max(past, 1)},64] v)
            => (float[1,2,{words},64] y) {{
            low = Slice(x, zero, half, three)  high = Slice(x, half, whole, three)
            n = Neg(high)  t = Concat<axis=3>(n, low)  a = Mul(x, c)  b = Mul(t, s)
            q = Add(a, b)  kt = Transpose<perm=[0,1,3,2]>(k)  p = MatMul(q, kt)
            w = Softmax<axis=-1>(p)  y = MatMul(w, v)
        }}""",
        zero=np.array([0]),
        half=np.array([32]),
        whole=np.array([64]),
        three=np.array([3]),
    )
    feed = {name: random(words, 64, seed=i) for i, name in enumerate("cs")}
    feed["x"] = random(1, 2, words, 64, seed=3) / 8
    feed |= {n: random(1, 2, max(past, 1), 64, seed=4 + i) for i, n in enumerate("kv")}
    used = {"rotate", "attention"}
    check_on_cpu(model, feed, precision, kernels=used, rtol=4 * BOUNDS[precision])
