"""Products with weights that are integers in memory, against ONNX's reference implementation."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from builders import onnx_model
from kernels import TARGETS, BuiltModel, run_model
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from quantized_products import KINDS, product

import relaxc

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


def test_arithmetic_is_that_of_floats(tmp_path: Path) -> None:
    model = product(np.random.default_rng(11), 2, 64, 32, 32, "int8")
    result = relaxc.compile(model, tmp_path / "m.rxc")
    (kernel,) = result.manifest["kernels"]
    assert (kernel["name"], kernel["dtype"]) == ("matmul_int8_weight", "float32")


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


# Every finite number of float8_e4m3fn, its denormals and zeros included.
CODES = np.array([code for code in range(256) if code & 0x7F != 0x7F], np.uint8)


def float8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice(CODES, shape).view(ml_dtypes.float8_e4m3fn)


# Tables of bytes came later than 16 lanes.
@pytest.mark.parametrize("target", (*CPUS, "llvm -mcpu=cascadelake"))
@pytest.mark.parametrize("block", [0, 32])
def test_float8(block: int, target: str) -> None:
    rng = np.random.default_rng(8)
    attributes = f"axis=0, block_size={block}" if block else "axis=1"
    for rows in (1, 6):
        model = onnx_model(
            f"""g (float[{rows},64] x) => (float[{rows},40] y) {{
                w = DequantizeLinear<{attributes}>(q, s)  y = MatMul(x, w)
            }}""",
            23,
            q=float8(rng, 64, 40),
            s=rng.uniform(0.5, 1.5, (2, 40) if block else 40).astype(np.float32),
        )
        x = rng.standard_normal((rows, 64)).astype(np.float32)
        check(model, x, target, "matmul_float8_weight")
        weights = BuiltModel(model, target)._weights
        sizes = [array.numpy().nbytes for array in weights if str(array.dtype) != "float32"]
        assert 64 * 40 <= sum(sizes) <= 64 * 64


def test_float8_that_is_not_a_number() -> None:
    rng = np.random.default_rng(9)
    weight = float8(rng, 16, 8)
    weight[3, 5] = np.nan
    model = onnx_model(
        """g (float[2,16] x) => (float[2,8] y) { w = DequantizeLinear(q, s)  y = MatMul(x, w) }""",
        23,
        q=weight,
        s=np.array(0.5, np.float32),
    )
    x = rng.standard_normal((2, 16)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (actual,), _ = run_model(model, {"x": x})
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)
    assert np.isnan(actual[:, 5]).all()


@pytest.mark.parametrize("kind", ["int8", "float8_e4m3fn", "float8_e5m2"])
def test_weights_that_are_not_multiplied_by_rows(kind: str) -> None:
    rng = np.random.default_rng(10)
    array = (rng.standard_normal((4, 3, 3, 3)) * 20).astype(np.dtype(kind))
    model = onnx_model(
        """g (float[1,3,8,8] x) => (float[1,4,6,6] y) {
            w = DequantizeLinear<axis=0>(q, s)  c = Conv(x, w)
            b = DequantizeLinear<axis=0>(p, r)  y = Add(c, b)
        }""",
        23,
        q=array,
        s=rng.uniform(0.5, 1.5, 4).astype(np.float32) / 100,
        p=array[:, :1, :1, 0],
        r=rng.uniform(0.5, 1.5, 4).astype(np.float32),
    )
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (actual,), _ = run_model(model, {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
