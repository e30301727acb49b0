"""Attention in CUDA C++ computes what ONNX Runtime does, emulated on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from builders import onnx_model
from emulation import BOUNDS, check_on_cpu, more, needs_emulation, random, run_on_cpu

from relaxc.layout import Precision
from relaxc.targets.cuda.machine import GPUS

pytestmark = needs_emulation


@pytest.mark.parametrize(
    ("precision", "masked"), [("float16", False), ("float32", True), more("bfloat16", True)]
)
def test_one_query_and_many_keys(precision: Precision, masked: bool) -> None:
    model = onnx_model(
        """g (float[1,2,1,32] q, float[1,2,300,32] k, float[1,2,300,32] v, float[1,1,1,300] mask)
            => (float[1,2,1,32] y) {
            t = Transpose<perm=[0,1,3,2]>(k)  a = MatMul(q, t)  m = Add(a, mask)
            p = Softmax<axis=-1>(m)  y = MatMul(p, v)
        }"""
    )
    mask = np.zeros((1, 1, 1, 300), np.float32)
    if masked:  # a block whose keys are all masked away
        mask[..., 64:150] = -np.inf
    feed = {"q": random(1, 2, 1, 32), "k": random(1, 2, 300, 32, seed=1)}
    feed |= {"v": random(1, 2, 300, 32, seed=2), "mask": mask}
    check_on_cpu(model, feed, precision, kernels={"attention"}, rtol=4 * BOUNDS[precision])


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize(("queries", "depth"), [(70, 16), more(16, 40)])
def test_attention(precision: Precision, queries: int, depth: int) -> None:
    width = 2 * depth
    model = onnx_model(
        f"""g (float[2,{queries},{width}] x, float[2,1,1,{queries}] mask)
            => (float[2,{queries},{width}] y) {{
            q0 = MatMul(x, wq)  q1 = Reshape(q0, s)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, s)  k = Transpose<perm=[0,2,3,1]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, s)  v = Transpose<perm=[0,2,1,3]>(v1)
            a = MatMul(q, k)  b = Mul(a, c)  m = Add(b, mask)  p = Softmax<axis=-1>(m)
            o = MatMul(p, v)  o1 = Transpose<perm=[0,2,1,3]>(o)  y = Reshape(o1, s2)
        }}""",
        wq=random(width, width) / 4,
        wk=random(width, width, seed=1) / 4,
        wv=random(width, width, seed=2) / 4,
        c=np.array(depth**-0.5, np.float32),
        s=np.array([0, 0, 2, depth]),
        s2=np.array([0, 0, width]),
    )
    mask = np.where(random(2, 1, 1, queries, seed=4) > 1, -1e4, 0).astype(np.float32)
    feed = {"x": random(2, queries, width, seed=3), "mask": mask}
    check_on_cpu(model, feed, precision, kernels={"attention"}, rtol=4 * BOUNDS[precision])


# Queries in teams of four warps. Heads lie beside each other; tiles of keys are used several times.
@pytest.mark.parametrize(
    ("precision", "queries", "keys", "depth", "mask"),
    [
        ("float16", 70, 400, 72, [70, 400]),
        ("bfloat16", 40, 70, 48, [2, 1, 1, 70]),
        *(
            more(*case)
            for case in (
                ("float16", 130, 520, 128, [130, 520]),
                ("float16", 64, 37, 64, [64, 37]),
                ("bfloat16", 200, 256, 96, [2, 2, 200, 256]),
                ("float16", 128, 1100, 64, [1, 1]),
            )
        ),
    ],
)
def test_attention_of_four_warps(
    monkeypatch: pytest.MonkeyPatch,
    precision: Literal["float16", "bfloat16"],
    queries: int,
    keys: int,
    depth: int,
    mask: list[int],
) -> None:
    monkeypatch.setitem(GPUS, "sm_90", replace(GPUS["sm_90"], multiprocessors=2))
    batch = mask[0] if len(mask) == 4 else 1
    model = onnx_model(
        f"""g (float[{batch},{queries},{2 * depth}] x, float[{batch},{keys},{2 * depth}] z,
                float{mask} mask) => (float[{batch},{queries},{2 * depth}] y) {{
            q0 = Reshape(x, s)  q = Transpose<perm=[0,2,1,3]>(q0)
            k0 = Reshape(z, s)  k = Transpose<perm=[0,2,3,1]>(k0)
            v0 = MatMul(z, w)  v1 = Reshape(v0, s)  v = Transpose<perm=[0,2,1,3]>(v1)
            a = MatMul(q, k)  b = Mul(a, c)  m = Add(b, mask)  p = Softmax<axis=-1>(m)
            o = MatMul(p, v)  o1 = Transpose<perm=[0,2,1,3]>(o)  y = Reshape(o1, s2)
        }}""",
        w=random(2 * depth, 2 * depth, seed=2) / 8,
        c=np.array(depth**-0.5, np.float32),
        s=np.array([0, 0, 2, depth]),
        s2=np.array([0, 0, 2 * depth]),
    )
    feed = {"x": random(batch, queries, 2 * depth), "z": random(batch, keys, 2 * depth, seed=1)}
    feed["mask"] = np.where(random(*mask, seed=3) > 1, -1e4, 0).astype(np.float32)
    if keys > 192:  # everything that one query meets first is masked away
        feed["mask"][..., :1, :192] = -np.inf
    dtype = np.float16 if precision == "float16" else ml_dtypes.bfloat16
    halves = {name: value.astype(dtype) for name, value in feed.items()}
    (y,), used = run_on_cpu(model, halves, precision, precision)
    assert "attention" in used
    feed = {name: value.astype(np.float32) for name, value in halves.items()}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, feed)
    bound = 4 * BOUNDS[precision] * float(np.abs(expected).max())
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=0, atol=bound)


@pytest.mark.parametrize("precision", ["float16", more("float32")])
def test_keys_of_earlier_positions(precision: Precision) -> None:
    model = onnx_model(
        """g (float[1,2,3,32] q, float[1,2,70,32] k, float[1,2,70,32] v, float[1,3,64] x)
            => (float[1,2,3,32] y, float[1,2,73,32] later) {
            n0 = MatMul(x, w)  n1 = Reshape(n0, s)  n = Transpose<perm=[0,2,1,3]>(n1)
            later = Concat<axis=2>(k, n)  t = Transpose<perm=[0,1,3,2]>(later)
            v1 = Concat<axis=2>(v, n)
            a = MatMul(q, t)  p = Softmax<axis=-1>(a)  y = MatMul(p, v1)
        }""",
        w=random(64, 64) / 8,
        s=np.array([1, 3, 2, 32]),
    )
    feed = {"q": random(1, 2, 3, 32), "k": random(1, 2, 70, 32, seed=1)}
    feed |= {"v": random(1, 2, 70, 32, seed=2), "x": random(1, 3, 64, seed=3)}
    check_on_cpu(model, feed, precision, kernels={"attention"}, rtol=4 * BOUNDS[precision])
