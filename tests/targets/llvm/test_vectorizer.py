"""Loops that LLVM vectorizes into wrong code."""

# Annotations of TVMScript are values.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from builders import onnx_model
from tvm.script import tirx as T

import relaxc
from relaxc.targets.llvm.vectorizer import careful_target

TARGET = tvm.target.Target(
    {"kind": "llvm", "mcpu": "znver5", "mtriple": "x86_64-linux-gnu", "num-cores": 2}
)


@T.prim_func(private=True)
def wrapped(x: T.Buffer((16,), "float32"), y: T.Buffer((32,), "float32")):
    for i in range(32):
        y[i] = T.Select(i < 20, x[i % 16], T.float32(0))


@T.prim_func(private=True)
def unconditional(x: T.Buffer((16,), "float32"), y: T.Buffer((32,), "float32")):
    for i in range(32):
        y[i] = x[i % 16] + T.Select(i < 20, T.float32(1), T.float32(0))


@T.prim_func(private=True)
def whole(x: T.Buffer((13,), "float32"), y: T.Buffer((26,), "float32")):
    for i in range(26):
        y[i] = T.if_then_else(i < 20, x[i % 13], T.float32(0))


@pytest.mark.parametrize(("func", "is_careful"), [(wrapped, 1), (unconditional, 0), (whole, 0)])
def test_conditional_loads_that_wrap(func: tvm.tirx.PrimFunc, is_careful: int) -> None:
    target = careful_target(tvm.IRModule({"f": func}), TARGET)
    assert str(target).count("if-conversion") == is_careful


def test_the_lower_triangle_of_tiles(tmp_path: Path) -> None:
    """Graph 602575 of the fuzzer."""
    model = onnx_model(
        "g (float[1,13,16] x) => (float[2,26,32] y) { t = Tile(x, r) y = Trilu<upper=0>(t, k) }",
        r=np.array([2, 2, 2]),
        k=np.array(2),
    )
    x = np.random.default_rng(0).standard_normal((1, 13, 16)).astype(np.float32)
    relaxc.compile(model, tmp_path / "m.rxc")
    y = relaxc.load(tmp_path / "m.rxc")(x)
    np.testing.assert_array_equal(y, np.tril(np.tile(x, (2, 2, 2)), 2))
