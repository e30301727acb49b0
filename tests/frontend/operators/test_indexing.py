"""Gather and its relatives: negative indices, and errors instead of foreign memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model

import relaxc
from relaxc.errors import InputError, UnsupportedOpError
from relaxc.frontend.importer import from_onnx


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("op", "index"),
    [
        ("Gather<axis=1>", np.array([[-1, 0], [2, -3]])),
        ("Gather<axis=-1>", np.array(-2)),
        ("GatherElements<axis=1>", np.array([[0, -1], [2, 1]])),
        ("GatherND", np.array([[0, -1], [-2, 1]])),
        ("GatherND<batch_dims=1>", np.array([[-1], [1]])),
    ],
)
def test_negative_indices(op: str, index: np.ndarray) -> None:
    dims = ",".join(map(str, index.shape))
    kind = f"int64[{dims}]" if index.ndim else "int64"
    graph = f"g (float[n,3] x, {kind} i) => (float[a] y) {{ y = {op} (x, i) }}"
    model = onnx_model(graph)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    check_model(model, {"x": floats(2, 3), "i": index})


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_out_of_range_is_an_error(index: int, tmp_path: Path) -> None:
    graph = "g (float[3,2] x, int64[k] i) => (float[k,2] y) { y = Gather(x, i) }"
    relaxc.compile(onnx_model(graph), tmp_path / "a.rxc")
    model = relaxc.load(tmp_path / "a.rxc", threads=1)
    with pytest.raises(InputError, match="out of range of axis 0, which has 3 elements"):
        model(floats(3, 2), np.array([0, index]))
    np.testing.assert_array_equal(model(floats(3, 2), np.array([-1])), floats(3, 2)[-1:])


def test_a_constant_index_out_of_range_is_refused() -> None:
    graph = "g (float[3,2] x) => (float[1,2] y) { y = Gather(x, i) }"
    with pytest.raises(UnsupportedOpError, match="out of range of axis 0"):
        from_onnx(onnx_model(graph, i=np.array([3])))


def test_indices_of_two_symbolic_dimensions() -> None:
    model = onnx_model(
        "g (int64[n,s] at) => (float[n,s,3] y) { y = Gather<axis=0>(x, at) }", x=floats(7, 3)
    )
    check_model(model, {"at": np.array([[0, -1, 3], [6, -7, 2]])})


@pytest.mark.parametrize("index", [np.array(-1), np.array([1]), np.array([[0, -3]])])
def test_constant_indices_keep_their_dimensions(index: np.ndarray) -> None:
    model = onnx_model("g (float[3,2] x) => (float[a] y) { y = Gather(x, i) }", i=index)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    check_model(model, {"x": floats(3, 2)})


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_writing_out_of_range_is_an_error(op: str, tmp_path: Path) -> None:
    graph = (
        f"g (float[3,2] x, int64[1,2] i, float[1,2] u) => (float[3,2] y) {{ y = {op}(x, i, u) }}"
    )
    if op == "ScatterND":
        graph = graph.replace("float[1,2] u", "float[1] u")
    relaxc.compile(onnx_model(graph), tmp_path / "a.rxc")
    model = relaxc.load(tmp_path / "a.rxc", threads=1)
    updates = floats(1, 2) if op == "ScatterElements" else floats(1)
    with pytest.raises(InputError, match="out of range"):
        model(floats(3, 2), np.array([[1, 7]]), updates)
