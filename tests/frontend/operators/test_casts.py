"""Casts between all element types, against ml_dtypes and ONNX's backend tests' conventions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from kernels import run_model
from onnx import TensorProto, helper

from relaxc.frontend.element_types import NARROW, carried, dtype_name, values


def cast_model(source: int, target: int, op: str = "Cast", **attrs: object) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], to=target, **attrs)
    x = helper.make_tensor_value_info("x", source, ["n"])
    y = helper.make_tensor_value_info("y", target, ["n"])
    graph = helper.make_graph([node], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return run_model(model, {"x": x})[0][0]


@pytest.mark.parametrize("source", sorted(NARROW), ids=dtype_name)
def test_every_bit_pattern_is_read(source: int) -> None:
    expected = values(source)
    codes = np.arange(len(expected), dtype=np.uint8)
    np.testing.assert_array_equal(run(cast_model(source, TensorProto.FLOAT), codes), expected)


@pytest.mark.parametrize("target", sorted(NARROW - {TensorProto.FLOAT8E8M0}), ids=dtype_name)
def test_numbers_are_rounded_to_nearest_even(target: int) -> None:
    numbers = values(target)
    finite = np.unique(numbers[np.isfinite(numbers)])
    if "INT" in TensorProto.DataType.Name(target):
        x = finite
    else:
        middles = (finite[1:] + finite[:-1]) / 2
        x = np.concatenate([finite, middles, middles * 1.0001, middles * 0.9999])
        x = x[(x >= finite[0]) & (x <= finite[-1])].astype(np.float32)
    expected = x.astype(helper.tensor_dtype_to_np_dtype(target))
    actual = run(cast_model(TensorProto.FLOAT, target), x)
    np.testing.assert_array_equal(values(target)[actual], values(target)[carried(expected)])


@pytest.mark.parametrize(
    ("target", "saturate", "expected"),
    [
        (TensorProto.FLOAT8E4M3FN, 1, [448, -448, 448, np.nan]),
        (TensorProto.FLOAT8E4M3FN, 0, [np.nan, np.nan, np.nan, np.nan]),
        (TensorProto.FLOAT8E5M2, 1, [57344, -57344, 57344, np.nan]),
        (TensorProto.FLOAT8E5M2, 0, [np.inf, -np.inf, np.inf, np.nan]),
        (TensorProto.FLOAT8E4M3FNUZ, 0, [np.nan, np.nan, np.nan, np.nan]),
    ],
)
def test_what_float8_cannot_hold(target: int, saturate: int, expected: list[float]) -> None:
    x = np.array([1e6, -1e6, np.inf, np.nan], np.float32)
    actual = run(cast_model(TensorProto.FLOAT, target, saturate=saturate), x)
    np.testing.assert_array_equal(values(target)[actual], np.array(expected, np.float32))


def test_four_bit_integers_wrap_around() -> None:
    x = np.array([-9, -8, 7, 8, 15, 16], np.float32)
    actual = run(cast_model(TensorProto.FLOAT, TensorProto.INT4), x)
    np.testing.assert_array_equal(values(TensorProto.INT4)[actual], [7, -8, 7, -8, -1, 0])


def test_bits_are_kept() -> None:
    x = np.array([1.5, -0.0, np.inf], np.float32)
    model = cast_model(TensorProto.FLOAT, TensorProto.INT32, "BitCast")
    model.opset_import[0].version = 26
    np.testing.assert_array_equal(run(model, x), x.view(np.int32))
