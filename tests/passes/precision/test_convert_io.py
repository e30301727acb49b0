"""Inputs and outputs of another float type."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import onnx_model
from tvm.script import ir as I
from tvm.script import relax as R

import relaxc
from relaxc.errors import OptionError
from relaxc.passes.precision.convert_io import ConvertIo


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((4, 8), "float32"), i: R.Tensor((2,), "int64")):
        with R.dataflow():
            y = R.take(x, i, axis=0)
            z = R.nn.relu(y)
            gv = (z, i)
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((4, 8), "float16"), i: R.Tensor((2,), "int64")):
        with R.dataflow():
            x1 = R.astype(x, "float32")
            y = R.take(x1, i, axis=0)
            z = R.nn.relu(y)
            z1 = R.astype(z, "float16")
            gv = (z1, i)
            R.output(gv)
        return gv


def test_floats_are_converted_at_the_edges(golden: Callable[..., None]) -> None:
    golden(ConvertIo("float16"), Before, Expected)


def test_floats_of_that_type_are_left_alone(golden: Callable[..., None]) -> None:
    golden(ConvertIo("float32"), Before, Before)


def test_the_artifact_takes_and_gives_them(compiled: Callable[..., Path]) -> None:
    model = relaxc.load(compiled(onnx_model(RELU), io="float16"))
    assert [info.dtype for info in (*model.inputs, *model.outputs)] == ["float16", "float16"]
    x = np.array([-1, 0, 2, 3], np.float16)
    y = model(x)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, np.maximum(x, 0))


RELU = "g (float[4] x) => (float[4] y) { y = Relu (x) }"


def test_other_types_are_refused() -> None:
    with pytest.raises(OptionError, match="unknown type `float8` of inputs and outputs"):
        relaxc.CompileOptions(io="float8")
