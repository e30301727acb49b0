"""Products that round their data as they run, against the same arithmetic in NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from kernels import TARGETS, BuiltModel
from onnx import numpy_helper
from quantized_products import product

CPUS = (*TARGETS, "llvm -mcpu=skylake-avx512")


def simulated(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Rounded per row and group, multiplied as integers."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weight, scale = arrays["q"].astype(np.int64), arrays["s"]
    zero = arrays["z"].astype(np.int64) if "z" in arrays else np.zeros(scale.shape, np.int64)
    groups, size = len(scale), len(weight) // len(scale)
    total = np.zeros((len(x), weight.shape[1]))
    for g in range(groups):
        rows = slice(g * size, (g + 1) * size)
        largest = np.maximum(np.abs(x[:, rows]).max(axis=1, keepdims=True), np.float32(1e-30))
        rounded = np.rint(x[:, rows] * (np.float32(127) / largest)).astype(np.int64)
        sums = rounded @ (weight[rows] - zero[g])
        total += sums * (largest * np.float32(1 / 127)).astype(np.float64) * scale[g]
    wanted: np.ndarray = np.maximum(total + arrays["b"], 0)
    return wanted


def check(model: onnx.ModelProto, x: np.ndarray, target: str, kernel: str) -> None:
    built = BuiltModel(model, target, rounds_rows=True)
    assert kernel in built.kernels
    expected = simulated(model, x)
    np.testing.assert_allclose(built.run({"x": x})[0], expected, rtol=0, atol=2e-6 * expected.max())


@pytest.mark.parametrize("target", CPUS)
@pytest.mark.parametrize("zeros", ["none", "one", "all"])
@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8"])
def test_types(kind: str, zeros: str, target: str) -> None:
    rng = np.random.default_rng(0)
    for rows in (1, 6):
        model = product(rng, rows, 96, 40, 32, kind, zeros)
        x = rng.standard_normal((rows, 96)).astype(np.float32)
        check(model, x, target, f"matmul_int{kind[-1]}_dynamic")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("rows", "depth", "columns", "group"),
    [
        (2, 256, 70, 64),
        (3, 128, 16, 128),
        (9, 64, 7, 16),
        (33, 128, 100, 32),
        (4, 40, 300, 8),
        (17, 72, 33, 72),
    ],
)
def test_shapes(rows: int, depth: int, columns: int, group: int, target: str) -> None:
    rng = np.random.default_rng(1)
    for kind in ("uint4", "int8"):
        model = product(rng, rows, depth, columns, group, kind)
        x = rng.standard_normal((rows, depth)).astype(np.float32)
        x[rows // 2] = 0
        check(model, x, target, f"matmul_int{kind[-1]}_dynamic")


@pytest.mark.parametrize("target", TARGETS)
def test_a_symbolic_number_of_rows(target: str) -> None:
    rng = np.random.default_rng(2)
    model = product(rng, "n", 64, 80, 32, "int4", "none")
    built = BuiltModel(model, target, rounds_rows=True)
    assert "matmul_int4_dynamic" in built.kernels
    for rows in (1, 3, 8, 21):
        x = rng.standard_normal((rows, 64)).astype(np.float32)
        expected = simulated(model, x)
        np.testing.assert_allclose(built.run({"x": x})[0], expected, atol=2e-6 * expected.max())


def test_without_products_of_bytes_data_stay_float() -> None:
    model = product(np.random.default_rng(3), 2, 64, 16, 32, "int4", "none")
    built = BuiltModel(model, "llvm -mcpu=x86-64", rounds_rows=True)
    assert "matmul_int4_weight" in built.kernels
