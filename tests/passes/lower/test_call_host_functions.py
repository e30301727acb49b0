"""Operators that the runtime computes on the host."""

# Types in TVMScript are calls.
# mypy: disable-error-code="valid-type"

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import onnx_model
from tvm.script import ir as I
from tvm.script import relax as R

import relaxc
from relaxc.passes.lower.call_host_functions import CallHostFunctions


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 3), "float32")) -> R.Tensor(ndim=2, dtype="int64"):
        with R.dataflow():
            y = R.nn.relu(x)
            z = R.nonzero(y)
            R.output(z)
        return z


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor(("n", 3), "float32")) -> R.Tensor(ndim=2, dtype="int64"):
        with R.dataflow():
            y = R.nn.relu(x)
            z = R.call_pure_packed("relaxc.nonzero", y, ty_args=[R.Tensor(ndim=2, dtype="int64")])
            R.output(z)
        return z


def test_rewrites(golden: Callable[..., None]) -> None:
    golden(CallHostFunctions(), Before, Expected)


X = np.array([[3, 1, 3, 0], [1, 0, 1, 2]], np.float32)


@pytest.mark.parametrize("is_sorted", [0, 1])
def test_unique_with_all_of_its_outputs(is_sorted: int, tmp_path: Path) -> None:
    text = f"""g (float[m,4] x) => (float[k] u, int64[k] i, int64[j] v, int64[k] c) {{
        u, i, v, c = Unique <sorted={is_sorted}> (x) }}"""
    relaxc.compile(onnx_model(text), tmp_path / "m.rxc")
    found = relaxc.load(tmp_path / "m.rxc").run({"x": X})
    order = [0.0, 1.0, 2.0, 3.0] if is_sorted else [3.0, 1.0, 0.0, 2.0]
    assert found["u"].tolist() == order
    flat = X.reshape(-1).tolist()
    assert found["i"].tolist() == [flat.index(value) for value in order]
    assert found["v"].tolist() == [order.index(value) for value in flat]
    assert found["c"].tolist() == [flat.count(value) for value in order]


def test_unique_rows(tmp_path: Path) -> None:
    rows = X[[1, 0, 1, 1]]
    text = "g (float[m,4] x) => (float[k,4] u) { u = Unique <axis=0, sorted=0> (x) }"
    relaxc.compile(onnx_model(text), tmp_path / "m.rxc")
    np.testing.assert_array_equal(relaxc.load(tmp_path / "m.rxc")(rows), rows[:2])


def test_nothing_is_nonzero(tmp_path: Path) -> None:
    text = "g (float[m,4] x) => (int64[2,k] y) { y = NonZero (x) }"
    relaxc.compile(onnx_model(text), tmp_path / "m.rxc")
    model = relaxc.load(tmp_path / "m.rxc")
    assert model(np.zeros((3, 4), np.float32)).shape == (2, 0)
    np.testing.assert_array_equal(model(X), np.stack(X.nonzero()))
