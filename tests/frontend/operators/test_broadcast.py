"""Dimensions that must be equal but cannot be proved so, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from builders import onnx_model

import relaxc
from relaxc.errors import InputError

POSITIONS = """g (float[n,3] x) => (float[n,3] y) {
    s = Shape<start=0, end=1>(x)  zero = Constant<value_ints=[0]>()
    own = Slice(table, zero, s, zero)  y = Add(x, own)
}"""


def test_a_table_of_positions_is_cut_to_a_symbolic_length(tmp_path: Path) -> None:
    table = np.arange(24, dtype=np.float32).reshape(8, 3)
    model = onnx_model(POSITIONS, table=table)
    relaxc.compile(model, tmp_path / "a.rxc")
    ours = relaxc.load(tmp_path / "a.rxc")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for length in (1, 5, 8):
        x = np.ones((length, 3), np.float32)
        np.testing.assert_array_equal(ours.run({"x": x})["y"], session.run(None, {"x": x})[0])


def test_more_than_the_table_holds_is_an_error(tmp_path: Path) -> None:
    relaxc.compile(onnx_model(POSITIONS, table=np.zeros((8, 3), np.float32)), tmp_path / "a.rxc")
    with pytest.raises(InputError, match="fails on inputs of these shapes"):
        relaxc.load(tmp_path / "a.rxc")(np.ones((9, 3), np.float32))


PAIR = "g (float[n,3] x, float[m,3] z) => (float[a,3] y) { s = Add(x, z) y = Relu(s) }"


def test_independent_dimensions_broadcast_when_the_model_runs(tmp_path: Path) -> None:
    relaxc.compile(onnx_model(PAIR), tmp_path / "a.rxc")
    model = relaxc.load(tmp_path / "a.rxc")
    z = np.arange(3, dtype=np.float32)
    for n, m in ((2, 2), (2, 1), (1, 2), (0, 1)):
        x = np.ones((n, 3), np.float32)
        result = model.run({"x": x, "z": np.tile(z, (m, 1))})["y"]
        np.testing.assert_array_equal(result, x + np.tile(z, (m, 1)))


def test_a_dimension_may_turn_out_to_be_1(tmp_path: Path) -> None:
    graph = "g (float[n,k] x, float[2] z) => (bool[a,b] y) { y = Less(x, z) }"
    relaxc.compile(onnx_model(graph), tmp_path / "a.rxc")
    model = relaxc.load(tmp_path / "a.rxc")
    for width in (1, 2):
        y = model.run({"x": np.zeros((3, width), np.float32), "z": np.ones(2, np.float32)})["y"]
        assert y.shape == (3, 2) and y.all()


def test_what_does_not_broadcast_is_an_error(tmp_path: Path) -> None:
    relaxc.compile(onnx_model(PAIR), tmp_path / "a.rxc")
    with pytest.raises(InputError, match="fails on inputs of these shapes"):
        relaxc.load(tmp_path / "a.rxc").run(
            {"x": np.ones((2, 3), np.float32), "z": np.ones((3, 3), np.float32)}
        )
