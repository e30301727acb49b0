"""Attention as exporters write it: views of projections, masks, biases, odd lengths."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import TARGETS, check_model


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "batch, heads, length, depth",
    [(1, 3, 37, 32), (2, 4, 64, 24), (1, 12, 20, 16)],
)
def test_separate_projections_with_a_mask(
    batch: int, heads: int, length: int, depth: int, target: str
) -> None:
    width = heads * depth
    model = onnx_model(
        f"""g (float[{batch},{length},{width}] q, float[{batch},{length},{width}] k,
              float[{batch},{length},{width}] v, float[{batch},1,1,{length}] mask)
              => (float[b,s,w] y) {{
            split = Constant <value_ints=[{batch},{length},{heads},{depth}]> ()
            join = Constant <value_ints=[{batch},{length},{width}]> ()
            q4 = Reshape (q, split)
            k4 = Reshape (k, split)
            v4 = Reshape (v, split)
            qt = Transpose <perm=[0,2,1,3]> (q4)
            kt = Transpose <perm=[0,2,3,1]> (k4)
            vt = Transpose <perm=[0,2,1,3]> (v4)
            s = MatMul (qt, kt)
            c = Constant <value_float=0.17> ()
            s1 = Mul (s, c)
            s2 = Add (s1, mask)
            p = Softmax <axis=-1> (s2)
            o = MatMul (p, vt)
            ot = Transpose <perm=[0,2,1,3]> (o)
            y = Reshape (ot, join)
        }}"""
    )
    feed = {name: _random(batch, length, width) + i for i, name in enumerate("qkv")}
    feed["mask"] = np.where(_random(batch, 1, 1, length) > 0, 0, -1e9).astype(np.float32)
    check_model(model, feed, target, kernels={"attention"})


@pytest.mark.parametrize("batch", [1, 3])
def test_keys_transposed_with_heads_merged(batch: int) -> None:
    """PyTorch's scaled_dot_product_attention as its exporter writes it."""
    heads, length, depth = 2, 21, 16
    model = onnx_model(
        f"""g (float[{batch},{length},{3 * heads * depth}] x) => (float[b,s,w] y) {{
            split = Constant <value_ints=[{batch},{length},3,{heads},{depth}]> ()
            merged = Constant <value_ints=[{batch * heads},{length},{depth}]> ()
            apart = Constant <value_ints=[{batch},{heads},{depth},{length}]> ()
            join = Constant <value_ints=[{batch},{length},{heads * depth}]> ()
            zero = Constant <value_int=0> ()
            one = Constant <value_int=1> ()
            two = Constant <value_int=2> ()
            a = Reshape (x, split)
            t = Transpose <perm=[2,0,3,1,4]> (a)
            q = Gather <axis=0> (t, zero)
            k = Gather <axis=0> (t, one)
            v = Gather <axis=0> (t, two)
            k3 = Reshape (k, merged)
            kt3 = Transpose <perm=[0,2,1]> (k3)
            kt = Reshape (kt3, apart)
            s = MatMul (q, kt)
            p = Softmax <axis=-1> (s)
            o = MatMul (p, v)
            ot = Transpose <perm=[0,2,1,3]> (o)
            y = Reshape (ot, join)
        }}"""
    )
    check_model(model, {"x": _random(batch, length, 3 * heads * depth)}, kernels={"attention"})


def test_slices_of_one_projection_with_window_masks() -> None:
    """Swin's form: a bias per head, and a mask per window added in five dimensions."""
    windows, heads, length, depth = 4, 2, 25, 16
    width = heads * depth
    model = onnx_model(
        f"""g (float[{windows},{length},{3 * width}] x) => (float[b,s,w] y) {{
            split = Constant <value_ints=[{windows},{length},3,{heads},{depth}]> ()
            join = Constant <value_ints=[{windows},{length},{width}]> ()
            five = Constant <value_ints=[1,{windows},{heads},{length},{length}]> ()
            four = Constant <value_ints=[{windows},{heads},{length},{length}]> ()
            zero = Constant <value_int=0> ()
            one = Constant <value_int=1> ()
            two = Constant <value_int=2> ()
            a = Reshape (x, split)
            t = Transpose <perm=[2,0,3,1,4]> (a)
            q = Gather <axis=0> (t, zero)
            k = Gather <axis=0> (t, one)
            v = Gather <axis=0> (t, two)
            kt = Transpose <perm=[0,1,3,2]> (k)
            s = MatMul (q, kt)
            s1 = Add (s, bias)
            s2 = Reshape (s1, five)
            s3 = Add (s2, mask)
            s4 = Reshape (s3, four)
            p = Softmax <axis=-1> (s4)
            o = MatMul (p, v)
            ot = Transpose <perm=[0,2,1,3]> (o)
            y = Reshape (ot, join)
        }}""",
        bias=_random(1, heads, length, length),
        mask=_random(1, windows, 1, length, length),
    )
    check_model(model, {"x": _random(windows, length, 3 * width)})
