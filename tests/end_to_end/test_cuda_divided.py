"""Models that two GPUs compute together, against ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from gpu import needs_two_gpus

import relaxc
from relaxc.errors import InputError
from relaxc.runtime.divided_tensor import DividedTensor

pytestmark = [pytest.mark.cuda, needs_two_gpus]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attention(words: int, past: int) -> onnx.ModelProto:
    """Four heads of sixteen, with a cache in and out, and a residual."""
    every = words + past
    return onnx_model(
        f"""g (float[1,{words},64] x, float[1,4,{past},16] k0)
            => (float[1,{words},64] y, float[1,4,{every},16] k1) {{
            q0 = MatMul(x, wq)  q1 = Reshape(q0, heads)  q = Transpose<perm=[0,2,1,3]>(q1)
            a0 = MatMul(x, wk)  a1 = Reshape(a0, heads)  a = Transpose<perm=[0,2,1,3]>(a1)
            k1 = Concat<axis=2>(k0, a)  kt = Transpose<perm=[0,1,3,2]>(k1)
            s0 = MatMul(q, kt)  s = Softmax<axis=-1>(s0)  o0 = MatMul(s, k1)
            o1 = Transpose<perm=[0,2,1,3]>(o0)  o2 = Reshape(o1, whole)
            o3 = MatMul(o2, wo)  o4 = Add(o3, bias)  y = Add(o4, x)
        }}""",
        heads=np.array([1, words, 4, 16]),
        whole=np.array([1, words, 64]),
        wq=random(64, 64) / 16,
        wk=random(64, 64, seed=1) / 16,
        wo=random(64, 64, seed=2) / 8,
        bias=random(64, seed=3),
    )


@pytest.mark.parametrize(("words", "past"), [(1, 7), (4000, 96)])
@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-5), ("float16", 5e-3)])
def test_it_computes_what_onnx_runtime_does(
    compiled: Callable[..., Path], words: int, past: int, precision: str, bound: float
) -> None:
    source = attention(words, past)
    path = compiled(source, target="cuda", precision=precision, tensor_parallel=2)
    model = relaxc.load(path, device="cuda:0,1")
    session = onnxruntime.InferenceSession(source.SerializeToString())
    for seed in range(3):
        feed = {"x": random(1, words, 64, seed=seed), "k0": random(1, 4, past, 16, seed=9)}
        for actual, wanted in zip(model.run(feed).values(), session.run(None, feed), strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=bound * np.abs(wanted).max())


def test_tensors_stay_on_the_gpus(compiled: Callable[..., Path]) -> None:
    model = relaxc.load(compiled(attention(1, 7), target="cuda", tensor_parallel=2))
    feed = {"x": random(1, 1, 64), "k0": random(1, 4, 7, 16)}
    expected = model.run(feed)
    there = {name: model.put(array, name) for name, array in feed.items()}
    for _ in range(3):
        results = model.run(there)
        assert isinstance(results["k1"], DividedTensor) and results["k1"].axis == 1
        for name, result in results.items():
            np.testing.assert_array_equal(result.numpy(), expected[name])
    with pytest.raises(InputError, match="must be divided along axis 1 on each of 2 GPUs"):
        model.run({**there, "k0": model.put(feed["k0"])})
    with pytest.raises(InputError, match="unknown input `k`"):
        model.put(feed["k0"], "k")
