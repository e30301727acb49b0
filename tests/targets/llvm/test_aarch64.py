"""Kernels for ARM's vectors, run under qemu and compared with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import arm
import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model

import relaxc
from relaxc.targets.llvm.tvm_runtime import fetch_runtime

REASON = arm.why_not()
pytestmark = [
    pytest.mark.long,
    pytest.mark.arm,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def conv(depth: int, width: int, size: int, kernel: int, *, stride: int = 1, groups: int = 1):  # type: ignore[no-untyped-def]
    pad = kernel // 2
    return onnx_model(
        f"""g (float[2,{depth},{size},{size}] x) => (float[n,c,h,w] y) {{
            a = Conv <kernel_shape=[{kernel},{kernel}], pads=[{pad},{pad},{pad},{pad}],
                      strides=[{stride},{stride}], group={groups}> (x, w, b)
            y = Relu (a)
        }}""",
        w=random(width, depth // groups, kernel, kernel),
        b=random(width),
    )


MODELS = {
    "first": conv(3, 24, 23, 7, stride=2),
    "pointwise": conv(24, 40, 13, 1),
    "direct": conv(20, 33, 11, 3, stride=2),
    "grouped": conv(32, 64, 9, 3, groups=2),
    "depthwise": conv(40, 40, 15, 3, groups=40),
    "winograd": conv(32, 32, 19, 3),
    "winograd-few-tiles": conv(64, 128, 7, 3),
    "transposed": onnx_model(
        """g (float[1,16,7,9] x) => (float[n,c,h,w] y) {
            y = ConvTranspose <kernel_shape=[4,4], strides=[2,2], pads=[1,1,1,1]> (x, w)
        }""",
        w=random(16, 12, 4, 4),
    ),
    "pool": onnx_model(
        """g (float[1,20,13,13] x) => (float[n,c,h,w] y) {
            a = MaxPool <kernel_shape=[3,3], strides=[2,2]> (x)
            y = AveragePool <kernel_shape=[2,2]> (a)
        }"""
    ),
    "transformer": onnx_model(
        """g (float[1,19,64] x) => (float[n,s,d] y) {
            n = LayerNormalization <axis=-1> (x, scale, shift)
            q = MatMul (n, wq)
            k = MatMul (n, wk)
            k1 = Transpose <perm=[0,2,1]> (k)
            s = MatMul (q, k1)
            p = Softmax <axis=-1> (s)
            v = MatMul (p, n)
            h = Gelu (v)
            y = Add (h, x)
        }""",
        opset=20,
        scale=random(64),
        shift=random(64),
        wq=random(64, 64) / 8,
        wk=random(64, 64) / 8,
    ),
    "lstm": onnx_model(
        """g (float[5,2,12] x) => (float[t,d,n,h] y) {
            y, yh, yc = LSTM <hidden_size=20> (x, w, r)
        }""",
        w=random(1, 80, 12) / 4,
        r=random(1, 80, 20) / 4,
    ),
}


@pytest.fixture(scope="module", params=["neoverse-n1", "neoverse-v1"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models, compiled here and run there; the second CPU has SVE."""
    folder = tmp_path_factory.mktemp(request.param)
    fetch_runtime("aarch64", arm.wheel())
    options = relaxc.CompileOptions(target=f"llvm -mtriple=aarch64-linux-gnu -mcpu={request.param}")
    for name, model in MODELS.items():
        relaxc.compile(model, folder / f"{name}.rxc", options)
        np.savez(folder / f"{name}.in.npz", x=feed(model))
    arm.run_all(folder, "max")
    return folder


def feed(model: onnx.ModelProto) -> np.ndarray:
    return random(*(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim))


@pytest.mark.parametrize("name", MODELS)
def test_matches_onnxruntime(folder: Path, name: str) -> None:
    model = MODELS[name]
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(
        None, {"x": feed(model)}
    )
    with np.load(folder / f"{name}.out.npz") as outputs:
        (actual,) = outputs.values()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
