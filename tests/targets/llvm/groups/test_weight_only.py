"""Products with weights that are integers in memory, against ONNX's reference implementation."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import onnx_model
from kernels import TARGETS, BuiltModel, run_model
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from quantized_products import KINDS, product

# With and without 16 lanes, with four.
CPUS = (*TARGETS, "llvm -mcpu=x86-64")


def check(model: onnx.ModelProto, x: np.ndarray, target: str, kernel: str) -> None:
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (actual,), kernels = run_model(model, {"x": x}, target)
    assert kernel in kernels
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * expected.max())


@pytest.mark.parametrize("target", CPUS)
@pytest.mark.parametrize("zeros", ["none", "one", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_types(kind: str, zeros: str, target: str) -> None:
    rng = np.random.default_rng(0)
    for rows in (1, 6):
        model = product(rng, rows, 96, 40, 32, kind, zeros)
        x = rng.standard_normal((rows, 96)).astype(np.float32)
        check(model, x, target, f"matmul_int{kind[-1]}_weight")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("rows", "depth", "columns", "group"),
    [(2, 256, 70, 64), (3, 128, 16, 128), (9, 64, 7, 16), (33, 128, 100, 32), (4, 40, 300, 8)],
)
def test_shapes(rows: int, depth: int, columns: int, group: int, target: str) -> None:
    rng = np.random.default_rng(1)
    model = product(rng, rows, depth, columns, group, "uint4")
    x = rng.standard_normal((rows, depth)).astype(np.float32)
    check(model, x, target, "matmul_int4_weight")


@pytest.mark.parametrize("target", TARGETS)
def test_scales_of_two_bytes(target: str) -> None:
    rng = np.random.default_rng(7)
    for rows in (1, 6):
        model = product(rng, rows, 64, 40, 32, "uint4")
        (scale,) = (t for t in model.graph.initializer if t.name == "s")
        short = numpy_helper.to_array(scale).view(np.uint32) & np.uint32(0xFFFF0000)
        scale.CopyFrom(numpy_helper.from_array(short.view(np.float32), scale.name))
        x = rng.standard_normal((rows, 64)).astype(np.float32)
        check(model, x, target, "matmul_int4_weight")
        weights = BuiltModel(model, target)._weights
        assert any(str(array.dtype) == "uint16" for array in weights)


@pytest.mark.parametrize("target", TARGETS)
def test_a_symbolic_number_of_rows(target: str) -> None:
    rng = np.random.default_rng(2)
    model = product(rng, "n", 64, 80, 32, "int4", "none")
    built = BuiltModel(model, target)
    for rows in (1, 3, 8, 21):
        x = rng.standard_normal((rows, 64)).astype(np.float32)
        (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
        np.testing.assert_allclose(built.run({"x": x})[0], expected, atol=2e-6 * expected.max())


def test_groups_that_fill_no_step_are_float() -> None:
    rng = np.random.default_rng(3)
    model = product(rng, 2, 36, 16, 12, "uint4")
    check(model, rng.standard_normal((2, 36)).astype(np.float32), "llvm", "matmul")


def test_a_scale_per_column_and_data_that_are_float() -> None:
    rng = np.random.default_rng(4)
    model = onnx_model(
        """g (float[5,48] x) => (float[5,24] y) {
            w = DequantizeLinear<axis=0>(q, s, z)  t = Transpose(w)  y = MatMul(x, t)
        }""",
        23,
        q=rng.integers(-127, 128, (24, 48)).astype(np.int8),
        s=rng.uniform(0.5, 1.5, 24).astype(np.float32) / 100,
        z=np.zeros(24, np.int8),
    )
    check(model, rng.standard_normal((5, 48)).astype(np.float32), "llvm", "matmul_int8_weight")


def test_two_readers_of_one_weight() -> None:
    rng = np.random.default_rng(5)
    model = product(rng, 1, 64, 64, 32, "uint4")
    extra = onnx_model("g (float[1,64] y) => (float[1,64] o) { o = MatMul(y, w) }")
    model.graph.node.append(extra.graph.node[0])
    model.graph.output.append(helper.make_tensor_value_info("o", 1, [1, 64]))
    x = rng.standard_normal((1, 64)).astype(np.float32)
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    actual, kernels = run_model(model, {"x": x})
    assert kernels == {"matmul_int4_weight"}
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=2e-6 * np.abs(e).max())


def test_a_weight_that_is_an_output_too() -> None:
    rng = np.random.default_rng(6)
    model = product(rng, 1, 64, 16, 32, "uint4")
    model.graph.output.append(helper.make_tensor_value_info("w", 1, [64, 16]))
    x = rng.standard_normal((1, 64)).astype(np.float32)
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    actual, _ = run_model(model, {"x": x})
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=2e-6 * np.abs(e).max())
