"""Models on a GPU against ONNX Runtime on the CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import conv_model, dense_model, onnx_model, relu_model
from conftest import MODELS
from gpu import needs_gpu

import relaxc
from relaxc.errors import InputError
from relaxc.runtime.device_tensor import DeviceTensor

pytestmark = [pytest.mark.cuda, needs_gpu]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def expected(model: onnx.ModelProto | Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source)
    return np.asarray(session.run(None, feed)[0])


@pytest.mark.parametrize(
    ("model", "name", "shape"),
    [
        (conv_model(), "x", (1, 3, 8, 8)),
        (dense_model(), "x", (5, 4)),
        (MODELS / "mnist_cnn" / "mnist.onnx", "Input3", (1, 1, 28, 28)),
        (MODELS / "resnet_cifar" / "resnet20_cifar10.onnx", "input", (3, 3, 32, 32)),
    ],
)
def test_it_computes_what_onnx_runtime_does(
    compiled: Callable[..., Path],
    model: onnx.ModelProto | Path,
    name: str,
    shape: tuple[int, ...],
) -> None:
    loaded = relaxc.load(compiled(model, target="cuda"), device="cuda")
    for scale in (1.0, 0.5, 1.0):  # fresh inputs: a replayed graph must read them
        x = random(*shape) * np.float32(scale)
        want = expected(model, {name: x})
        np.testing.assert_allclose(loaded(x), want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("precision", "bound"), [("tf32", 2e-3), ("float16", 5e-3), ("bfloat16", 2e-2)]
)
def test_precisions(compiled: Callable[..., Path], precision: str, bound: float) -> None:
    x = random(1, 3, 8, 8)
    want = expected(conv_model(), {"x": x})
    y = relaxc.load(compiled(conv_model(), target="cuda", precision=precision))(x)
    np.testing.assert_allclose(y, want, rtol=0, atol=bound * np.abs(want).max())


@pytest.mark.parametrize("columns", [968, 1200])
def test_floats_of_eight_bits(compiled: Callable[..., Path], columns: int) -> None:
    """Where no number is rounded, products are right but for what tensor cores cut off of sums."""
    rng = np.random.default_rng(columns)
    weight, x = rng.integers(-7, 8, (2064, columns)), rng.integers(-7, 8, (2200, 2064))
    weight[0], x[:, 1] = 7, 7  # which becomes 448
    feed = {"x": (x * 2.0 ** rng.integers(-3, 4, (2200, 1))).astype(np.float32)}
    model = onnx_model(
        f"""g (float[2200,2064] x) => (float[2200,{columns}] y) {{
            a = MatMul(x, w)  b = Add(a, v)  y = Relu(b) }}""",
        w=(weight * 2.0 ** rng.integers(-3, 4, columns)).astype(np.float32),
        v=random(columns),
    )
    path = compiled(model, target="cuda -arch=sm_90", precision="float8")
    kernels = relaxc.artifact.read_artifact(path).manifest["kernels"]
    assert "float8" in {kernel["dtype"] for kernel in kernels}
    want = expected(model, feed)
    y = relaxc.load(path).run(feed)["y"]
    assert np.linalg.norm(y - want) / np.linalg.norm(want) < 1e-3


def test_zeros_of_every_four_weights(compiled: Callable[..., Path]) -> None:
    weight = random(2064, 1904) / 32
    weight[1::4] = weight[2::4] = 0
    weight[5::8], weight[4::8] = weight[4::8], 0
    model = onnx_model(
        """g (float[2200,2064] x, float[2200,1904] z) => (float[2200,1904] y) {
            a = MatMul(x, w)  b = Add(a, v)  c = Relu(b)  y = Add(c, z) }""",
        w=weight,
        v=random(1904),
    )
    path = compiled(model, target="cuda -arch=sm_90", precision="float16")
    assert any("sparsity" in k for k in relaxc.artifact.read_artifact(path).manifest["kernels"])
    feed = {"x": random(2200, 2064), "z": random(2200, 1904)}
    want = expected(model, feed)
    y = relaxc.load(path).run(feed)["y"]
    np.testing.assert_allclose(y, want, rtol=0, atol=5e-3 * np.abs(want).max())


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_products_of_activations(compiled: Callable[..., Path], precision: str) -> None:
    model = onnx_model(
        "g (float[2,4,64,64] a, float[2,4,64,128] b) => (float[2,4,64,128] y) { y = MatMul(a, b) }"
    )
    feed = {"a": random(2, 4, 64, 64), "b": random(2, 4, 64, 128)}
    want = expected(model, feed)
    y = relaxc.load(compiled(model, target="cuda", precision=precision)).run(feed)["y"]
    np.testing.assert_allclose(y, want, rtol=0, atol=5e-3 * np.abs(want).max())


def test_dimensions_may_change_between_calls(compiled: Callable[..., Path]) -> None:
    model = relaxc.load(compiled(relu_model(), target="cuda"))
    for rows in (1, 7, 1000, 7):
        x = random(rows, 3)
        np.testing.assert_array_equal(model(x), np.maximum(x, 0))


def test_tensors_stay_on_the_gpu(compiled: Callable[..., Path]) -> None:
    model = relaxc.load(compiled(relu_model(), target="cuda"))
    x = random(7, 3)
    first = model(model.put(x))
    assert isinstance(first, DeviceTensor)
    second = model(first)
    np.testing.assert_array_equal(second.numpy(), np.maximum(x, 0))


def test_tensors_of_other_libraries(compiled: Callable[..., Path]) -> None:
    torch = pytest.importorskip("torch")
    model = relaxc.load(compiled(relu_model(), target="cuda"))
    x = torch.randn(7, 3, device="cuda")
    y = torch.from_dlpack(model(x))
    assert torch.equal(y, x.relu())
    del x, model
    gc.collect()
    assert float(y.min()) >= 0
    with pytest.raises(InputError, match="not contiguous"):
        relaxc.load(compiled(relu_model(), target="cuda"))(torch.randn(3, 7, device="cuda").T)


def test_an_output_that_is_an_input_is_a_copy(compiled: Callable[..., Path]) -> None:
    graph = "g (float[4] x) => (float[4] y, float[4] z) { y = Identity (x)\n z = Relu (x) }"
    model = relaxc.load(compiled(onnx_model(graph), target="cuda"))
    x = model.put(random(4))
    assert model(x)[0].address != x.address
