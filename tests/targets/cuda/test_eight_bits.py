"""Products on floats of eight bits: which ones, what of, and that they are right."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from builders import onnx_model
from cubins import instructions, local_accesses, products
from emulation import EmulatedModel, more, needs_emulation, random
from gpu import needs_cuda_compiler

from relaxc.errors import OptionError
from relaxc.frontend.importer import from_onnx
from relaxc.passes.pipeline import default_passes
from relaxc.targets.cuda.groups import eight_bits
from relaxc.targets.cuda.kernels import tilings
from relaxc.targets.cuda.kernels.launch import KernelSource, take_sources
from relaxc.targets.cuda.kernels.tilings import Tiling
from relaxc.targets.cuda.machine import GPUS
from relaxc.targets.cuda.toolchain import find_compiler
from relaxc.targets.registry import backend_for

JOINT = Tiling(64, 32, 64, 32, 4, is_joint=True)
ALONE = Tiling(64, 64, 64, 64, 4, True, 1, 1, 1)
FOUR = Tiling(128, 32, 64, 32, 3, True, 1, 2, 2)
WARPS = Tiling(32, 32, 16, 16, split=2)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of any size are worth it."""
    monkeypatch.setattr(eight_bits, "_LEAST_PRODUCTS", 1)


def rounded(array: np.ndarray, axis: int) -> np.ndarray:
    """The numbers that e4m3 leaves of them, with a scale per row or column."""
    largest = np.abs(array).max(axis, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(448)
    bits = np.clip(array / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return np.asarray(bits.astype(np.float32) * scale)


def sources(model: onnx.ModelProto, arch: str = "sm_90") -> list[KernelSource]:
    backend = backend_for(f"cuda -arch={arch}").with_precision("float8")
    mod = from_onnx(model).mod
    for item in default_passes(backend.kernels, precision="float8"):
        mod = item.apply(mod)
    return take_sources(mod)[1]


def product(rows: Any, depth: int, columns: int) -> onnx.ModelProto:
    return onnx_model(
        f"""g (float[{rows},{depth}] x) => (float[{rows},{columns}] y) {{
            a = MatMul(x, w)  y = Relu(a) }}""",
        w=random(depth, columns) / 8,
    )


def check(model: onnx.ModelProto, x: np.ndarray, expected: np.ndarray, kernels: set[str]) -> None:
    emulated = EmulatedModel(model, "float8")
    assert kernels <= emulated.kernels
    (actual,) = emulated.run({"x": x})
    assert actual.shape == expected.shape
    # Where a quotient lies between two of e4m3's numbers, its last bit decides.
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error < 5e-3, error


@needs_emulation
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("tiling", [JOINT, FOUR, more(ALONE), more(WARPS)])
def test_products(monkeypatch: pytest.MonkeyPatch, tiling: Tiling) -> None:
    monkeypatch.setitem(GPUS, "sm_90", replace(GPUS["sm_90"], multiprocessors=2))
    monkeypatch.setattr(tilings, "choose_tiling", lambda *_args, **_options: tiling)
    model = onnx_model(
        """g (float[150,272] x) => (float[150,72] y) { a = MatMul(x, w)  b = Add(a, v)
            c = Sigmoid(b)  y = Mul(b, c) }""",
        w=random(272, 72) * np.exp(random(72, seed=3)),
        v=random(72, seed=1),
    )
    x = random(150, 272, seed=2) * np.exp(2 * random(150, 1, seed=4))
    x[7] = 0
    weight = random(272, 72) * np.exp(random(72, seed=3))
    b = rounded(x, 1) @ rounded(weight, 0) + random(72, seed=1)
    with np.errstate(over="ignore"):
        check(model, x, b / (1 + np.exp(-b)), {"matmul", "round"})


@needs_emulation
@pytest.mark.usefixtures("small")
def test_pairs_of_products() -> None:
    model = onnx_model(
        """g (float[n,64] x) => (float[n,48] y) { a = MatMul(x, w1)  s = Sigmoid(a)
            b = MatMul(x, w2)  y = Mul(s, b) }""",
        w1=random(64, 48) / 8,
        w2=random(64, 48, seed=1),
    )
    x = random(70, 64, seed=2)
    data, weights = rounded(x, 1), (random(64, 48) / 8, random(64, 48, seed=1))
    a, b = (data @ rounded(w, 0) for w in weights)
    check(model, x, b / (1 + np.exp(-a)), {"matmul", "round"})


@needs_emulation
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [96, more(1104)])
def test_norms_round_their_rows(size: int) -> None:
    model = onnx_model(
        f"""g (float[n,{size}] x) => (float[n,48] y) {{
            a = LayerNormalization<axis=-1>(x, v)  b = MatMul(a, w)  y = Relu(b) }}""",
        v=random(size, seed=1),
        w=random(size, 48),
    )
    x = random(37, size, seed=2) * 3 + 1
    a = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    emulated = EmulatedModel(model, "float8")
    assert emulated.kernels == {"matmul", "norm"}
    (actual,) = emulated.run({"x": x})
    expected = np.maximum(rounded(a * random(size, seed=1), 1) @ rounded(random(size, 48), 0), 0)
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-2


@pytest.mark.usefixtures("small")
def test_norms_that_others_read_do_not() -> None:
    model = onnx_model(
        """g (float[64,96] x) => (float[64,96] y) {
            a = LayerNormalization<axis=-1>(x, v)  b = MatMul(a, w)  c = Relu(b)
            d = MatMul(c, w)  y = Add(a, d) }""",
        v=random(96, seed=1),
        w=random(96, 96),
    )
    assert {s.name.split("_")[0] for s in sources(model)} == {"norm", "round", "matmul"}


@pytest.mark.usefixtures("small")
def test_data_that_are_added_to_the_result_stay_float16() -> None:
    model = onnx_model(
        "g (float[64,96] x) => (float[64,96] y) { a = MatMul(x, w)  y = Add(a, x) }",
        w=random(96, 96),
    )
    assert not any("_fp8" in source.name for source in sources(model))


@needs_emulation
@pytest.mark.usefixtures("small")
def test_rows_of_maps_are_rounded() -> None:
    model = onnx_model(
        """g (float[1,64,6,16] x) => (float[1,64,6,24] y) {
            a = Conv<kernel_shape=[1,1]>(x, w1)  y = MatMul(a, w2) }""",
        w1=random(64, 64, 1, 1) / 8,
        w2=random(16, 24, seed=1),
    )
    x = random(1, 64, 6, 16, seed=2)
    a = np.einsum("oc,bchw->bohw", random(64, 64, 1, 1)[:, :, 0, 0] / 8, x)
    emulated = EmulatedModel(model, "float8")
    assert {"matmul", "round"} <= emulated.kernels
    (actual,) = emulated.run({"x": x})
    expected = rounded(a, 3) @ rounded(random(16, 24, seed=1), 0)
    # Halves in between change which way some are rounded.
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-2


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("rows", "depth", "columns", "is_eight"),
    [
        (64, 64, 64, True),
        ("n", 64, 64, True),
        (64, 72, 64, False),
        (64, 64, 60, False),
        (4, 64, 64, False),
    ],
)
def test_some_stay_float16(rows: Any, depth: int, columns: int, is_eight: bool) -> None:
    names = [source.name for source in sources(product(rows, depth, columns))]
    assert any("_fp8" in name for name in names) == is_eight
    assert any(name.startswith("round") for name in names) == is_eight


def test_small_products_stay_float16() -> None:
    assert not any("_fp8" in source.name for source in sources(product(64, 64, 64)))


@pytest.mark.usefixtures("small")
def test_data_of_several_products_are_rounded_once() -> None:
    model = onnx_model(
        """g (float[64,64] x) => (float[64,64] y, float[64,32] z) {
            a = Tanh(x)  b = MatMul(a, w1)  y = Relu(b)  c = MatMul(a, w2)  z = Tanh(c) }""",
        w1=random(64, 64),
        w2=random(64, 32),
    )
    backend = backend_for("cuda -arch=sm_90").with_precision("float8")
    mod = from_onnx(model).mod
    for item in default_passes(backend.kernels, precision="float8"):
        mod = item.apply(mod)
    assert len(re.findall(r"call_tir\(cls\.round", mod.script())) == 1


@needs_cuda_compiler
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("arch", "instruction"), [("sm_90", "QGMMA"), ("sm_89", "QMMA"), ("sm_120", "QMMA")]
)
def test_tensor_cores_multiply_them(arch: str, instruction: str) -> None:
    for source in sources(product(4096, 512, 2048), arch):
        cubin = find_compiler().compile(source.source, source.architecture(arch))
        (counted,) = instructions(cubin).values()
        assert not local_accesses(counted), source.name
        assert products(counted) == ({instruction} if "_fp8" in source.name else set())


def test_weights_are_rounded_to_the_nearest() -> None:
    weight = random(40, 24) * np.exp(random(24, seed=1))
    weight[:, 3] = 0
    bits, scale = eight_bits.rounded(weight)
    actual = bits.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    np.testing.assert_array_equal(actual, rounded(weight, 0))
    # Three bits behind the first one: half a step is a 16th.
    assert (np.abs(actual - weight) <= np.abs(weight) / 16 + scale * 2.0**-10).all()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cuda -arch=sm_80", "`float8` is for GPUs of sm_89, sm_90 and sm_120, not for `sm_80`"),
        ("cuda -arch=sm_100", "not for `sm_100`; use precision `float16`"),
        ("llvm -mcpu=x86-64-v3", "`float8` is for GPUs"),
    ],
)
def test_others_refuse(target: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        backend_for(target).with_precision("float8")
