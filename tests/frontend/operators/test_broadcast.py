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
