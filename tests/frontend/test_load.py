"""Reading ONNX files: what is refused, and how it is said."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import dense_model, onnx_model, relu_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from relaxc.errors import ModelError
from relaxc.frontend.load import read_model


def save_external(model: onnx.ModelProto, folder: Path, location: str = "weights.bin") -> Path:
    path = folder / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_large_weights_are_taken_out_of_the_graph(tmp_path: Path) -> None:
    model = read_model(dense_model(rows=4, columns=300))
    assert model.weights["w"].shape == (4, 300)
    assert [value.name for value in model.proto.graph.input] == ["x", "w"]
    assert not model.proto.graph.initializer


def test_the_name_and_the_hash_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my model.onnx"
    onnx.save(dense_model(), path)
    model = read_model(path)
    assert model.name == "my model"
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_model_in_memory_is_not_changed() -> None:
    proto = dense_model()
    before = proto.SerializeToString()
    read_model(proto)
    assert proto.SerializeToString() == before


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model file `.*nosuch.onnx` does not exist"):
        read_model(tmp_path / "nosuch.onnx")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; give the path of an .onnx file"):
        read_model(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(ModelError, match="is empty"):
        read_model(tmp_path / "a.onnx")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, mnist_onnx: Path, keep: float) -> None:
    data = mnist_onnx.read_bytes()
    path = tmp_path / "a.onnx"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelError, match=r"is not an ONNX model: .*truncated download"):
        read_model(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("random") / "a.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="is not an ONNX model|is a valid protobuf but not"):
        read_model(path)


@pytest.mark.parametrize(
    "other",
    [
        numpy_helper.from_array(np.ones(3), "t"),
        helper.make_node("Relu", ["x"], ["y"]),
        dense_model().graph,
        helper.make_opsetid("", 18),
    ],
    ids=["TensorProto", "NodeProto", "GraphProto", "OperatorSetIdProto"],
)
def test_a_protobuf_that_is_no_model(tmp_path: Path, other: onnx.TensorProto) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(other.SerializeToString())
    with pytest.raises(
        ModelError, match="is not an ONNX model|valid protobuf but not an ONNX model"
    ):
        read_model(path)


def test_a_model_without_outputs() -> None:
    model = dense_model()
    del model.graph.output[:]
    with pytest.raises(ModelError, match="has no outputs: nothing to compile"):
        read_model(model)


def test_a_model_without_an_opset() -> None:
    model = dense_model()
    del model.opset_import[:]
    with pytest.raises(ModelError, match="declares no opset"):
        read_model(model)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    data = relu_model().SerializeToString().replace(b"\x01x", b"\x01\x9c")
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="names that are not UTF-8 text"):
        read_model(tmp_path / "m.onnx")


def test_initializers_that_are_listed_as_inputs_are_no_inputs() -> None:
    model = onnx_model(
        "g (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }", w=np.ones(2, np.float32)
    )
    assert [value.name for value in read_model(model).proto.graph.input] == ["x"]


# External data.


def test_external_data_is_mapped(tmp_path: Path) -> None:
    path = save_external(dense_model(), tmp_path)
    model = read_model(path)
    expected = numpy_helper.to_array(dense_model().graph.initializer[0])
    np.testing.assert_array_equal(model.weights["w"], expected)
    assert not model.weights["w"].flags.owndata


def test_the_hash_covers_external_data(tmp_path: Path) -> None:
    path = save_external(dense_model(), tmp_path)
    before = read_model(path).sha256
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(bytes(data))
    assert read_model(path).sha256 != before


def test_missing_external_data(tmp_path: Path) -> None:
    path = save_external(dense_model(), tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"`weights.bin` of `w` is missing beside the model"):
        read_model(path)


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    path = save_external(dense_model(), tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"12")
    with pytest.raises(ModelError, match=r"`w` does not fit: 4800 bytes .* `weights.bin` has 2"):
        read_model(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "", "sub/../../secret.bin"])
def test_external_data_outside_of_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4800))
    model = dense_model()
    tensor = model.graph.initializer[0]
    external_data_helper.set_external_data(tensor, location=location or "x")
    tensor.external_data[0].value = location
    tensor.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside of the model's folder; refused"):
        read_model(folder / "model.onnx")


def test_a_link_that_leads_outside_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = save_external(dense_model(), folder)
    (folder / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ModelError, match="outside of the model's folder; refused"):
        read_model(path)


def test_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    proto = onnx.load(save_external(dense_model(), tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match="pass the path of its file instead"):
        read_model(proto)


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT2, TensorProto.FLOAT4E2M1])
def test_external_data_of_packed_types(tmp_path: Path, kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    wanted = np.arange(9000).astype(np.int32) % 4
    model = dense_model()
    model.graph.initializer.append(numpy_helper.from_array(wanted.astype(dtype), "packed"))
    found = read_model(save_external(model, tmp_path)).weights["packed"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(np.int32), wanted)


def test_external_data_of_a_function(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], raw_data=b"")
    external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    model = onnx_model("g (float[4] x) => (float[4] y) { y = own.scaled(x) }")
    model.opset_import.append(helper.make_opsetid("own", 1))
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    product = helper.make_node("Mul", ["x", "w"], ["y"])
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(
        helper.make_function("own", "scaled", ["x"], ["y"], [constant, product], opsets)
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (loaded,) = [f.node[0].attribute[0].t for f in read_model(path).proto.functions]
    assert numpy_helper.to_array(loaded).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (TensorProto.STRING, [2], "`w` holds strings, which ONNX keeps inside of the model"),
        (99, [2], "has the element type 99 .* impossible"),
        (TensorProto.FLOAT, [-2, -600], r"dimensions \[-2, -600\], which are impossible"),
        (TensorProto.FLOAT, [1 << 32, 1 << 32], "`w` does not fit: 73786976294838206464 bytes"),
    ],
)
def test_impossible_external_tensors(
    tmp_path: Path, kind: int, shape: list[int], message: str
) -> None:
    path = save_external(dense_model(), tmp_path)
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    tensor.data_type = kind
    tensor.dims[:] = shape
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=message):
        read_model(path)


@pytest.mark.parametrize("field", ["offset", "length"])
def test_malformed_external_data(tmp_path: Path, field: str) -> None:
    path = save_external(dense_model(), tmp_path)
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.external_data.add(key=field, value="many")
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="external tensor `w` has a malformed offset"):
        read_model(path)


# Odd weights.


@pytest.mark.parametrize("columns", [2, 600])
def test_nan_weights_are_reported(columns: int) -> None:
    weight = np.ones((1, columns), np.float32)
    weight[0, 1] = np.nan
    model = onnx_model(
        f"g (float[1,{columns}] x) => (float[1,{columns}] y) {{ y = Mul(x, w) }}", w=weight
    )
    assert read_model(model).warnings == ["weight `w` holds 1 NaN values"]


def test_infinite_weights_are_fine() -> None:
    weight = np.array([[np.inf, -np.inf]], np.float32)
    model = onnx_model("g (float[1,2] x) => (float[1,2] y) { y = Mul(x, w) }", w=weight)
    assert read_model(model).warnings == []


def damage(tensor: TensorProto) -> None:
    tensor.raw_data = tensor.raw_data[:-3]


def claim_other_type(tensor: TensorProto) -> None:
    tensor.data_type = 999


@pytest.mark.parametrize("spoil", [damage, claim_other_type])
def test_an_unreadable_initializer(spoil: Callable[[TensorProto], None]) -> None:
    model = dense_model()
    spoil(model.graph.initializer[0])
    with pytest.raises(ModelError, match="initializer `w` cannot be read"):
        read_model(model)
