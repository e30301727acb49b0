"""Read an ONNX file and its external data; refuse what is not one, and say why.

Large initializers never travel through protobuf: they are taken out of the graph and kept as
NumPy arrays (memory-mapped where the file is external), so that models above protobuf's 2 GB
limit pass through the checker, the inliner and shape inference like any other.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from relaxc.errors import ModelError

# Initializers of at most this size stay in the graph, where shape inference can read them.
_INLINE_BYTES = 1024
# Element types of which a byte holds several.
_BITS: dict[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
    TensorProto.FLOAT4E2M1: 4,
}


@dataclass
class OnnxModel:
    """An ONNX graph whose large initializers live outside of the protobuf.

    Attributes:
        proto: the model; every tensor taken out is declared as an extra graph input.
        weights: name -> array, for the tensors taken out.
        sha256: hex digest of the model file and of its external data files, in order of first use.
        name: what to call the model in messages and reports.
        warnings: oddities that do not stop the import, one sentence each.
    """

    proto: onnx.ModelProto
    weights: dict[str, np.ndarray]
    sha256: str
    name: str
    warnings: list[str] = field(default_factory=list)


def read_model(source: str | os.PathLike[str] | onnx.ModelProto) -> OnnxModel:
    """Read a model from a file, or take one that is already in memory.

    Raises:
        ModelError: the file is missing, empty, a folder, truncated or not ONNX; external data is
            missing, too short or outside of the model's folder.
    """
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        digest = hashlib.sha256(proto.SerializeToString(deterministic=True))
        folder, name = None, proto.graph.name or "model"
    else:
        path = Path(source)
        data = _read_bytes(path)
        proto = _parse(data, path)
        digest = hashlib.sha256(data)
        folder, name = path.resolve().parent, path.stem
    _require_onnx(proto, name)
    external = _ExternalData(folder, digest)
    for body in (proto.graph, *proto.functions):
        _inline_attribute_tensors(body, external)
    model = OnnxModel(proto, _take_out_weights(proto, external), "", name)
    model.sha256 = digest.hexdigest()
    _warn_of_nan(model)
    return model


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"`{path}` is a folder; give the path of an .onnx file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"model file `{path}` does not exist") from None
    except OSError as err:
        raise ModelError(f"model file `{path}` cannot be read: {err.strerror}") from err
    if not data:
        raise ModelError(f"model file `{path}` is empty")
    return data


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(
            f"`{path}` is not an ONNX model: its {len(data)} bytes are not a valid protobuf "
            "(truncated download, or another format?)"
        ) from None
    return proto


def _require_onnx(proto: onnx.ModelProto, name: str) -> None:
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(
            f"`{name}` is a valid protobuf but not an ONNX model: it has no graph or no ir_version"
        )
    if not proto.graph.output:
        raise ModelError(f"`{name}` has no outputs: nothing to compile")
    if not proto.opset_import:
        raise ModelError(f"`{name}` declares no opset; export it again with a current exporter")
    # Protobuf gives bytes where a string is no text.
    if any(isinstance(text, bytes) for text in _names(proto.graph)):
        raise ModelError(f"`{name}` has names that are not UTF-8 text; the file is damaged")


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for value in (*graph.input, *graph.output, *graph.initializer):
        yield value.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)


class _ExternalData:
    """Maps external tensors, after making sure that they lie in the model's folder."""

    def __init__(self, folder: Path | None, digest: hashlib._Hash) -> None:
        self.folder = folder
        self.digest = digest
        self.maps: dict[Path, np.ndarray] = {}

    def load(self, tensor: TensorProto) -> np.ndarray:
        info = {e.key: e.value for e in tensor.external_data}
        file = self._locate(tensor.name, info.get("location", ""))
        if file not in self.maps:
            empty = file.stat().st_size == 0
            data = np.empty(0, np.uint8) if empty else np.memmap(file, np.uint8, mode="r")
            self.maps[file] = data
            self.digest.update(data.data)
        data = self.maps[file]
        size = _stored_bytes(tensor)
        try:
            offset = int(info.get("offset") or 0)
            length = int(info.get("length") or size)
        except ValueError:
            raise ModelError(f"external tensor `{tensor.name}` has a malformed offset") from None
        if length != size or offset < 0 or offset + length > data.size:
            raise ModelError(
                f"external data of `{tensor.name}` does not fit: {size} bytes at "
                f"offset {offset} are declared, but `{file.name}` has {data.size} bytes"
            )
        stored = data[offset : offset + length]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if tensor.data_type in _BITS:
            packed = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
            packed.raw_data = stored.tobytes()
            unpacked: np.ndarray = numpy_helper.to_array(packed)
            return unpacked
        array: np.ndarray = stored.view(dtype)
        return array.reshape(tuple(tensor.dims))

    def _locate(self, tensor: str, location: str) -> Path:
        if self.folder is None:
            raise ModelError(
                f"tensor `{tensor}` lies in external file `{location}`, but the model was given in "
                "memory: pass the path of its file instead"
            )
        file = (self.folder / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(self.folder):
            raise ModelError(
                f"external data of `{tensor}` points to `{location}`, outside of the model's "
                "folder; refused"
            )
        if not file.is_file():
            raise ModelError(
                f"external data file `{location}` of `{tensor}` is missing beside the model"
            )
        return file


def _stored_bytes(tensor: TensorProto) -> int:
    """What the elements take in a file.

    Raises:
        ModelError: they cannot lie in one, or there is no such tensor.
    """
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(
            f"external tensor `{tensor.name}` holds strings, which ONNX keeps inside of the model"
        )
    if tensor.data_type not in helper.get_all_tensor_dtypes() or min(tensor.dims, default=0) < 0:
        raise ModelError(
            f"external tensor `{tensor.name}` has the element type {tensor.data_type} and the "
            f"dimensions {list(tensor.dims)}, which are impossible"
        )
    whole = 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    bits = _BITS.get(tensor.data_type, whole)
    # Of any size: what a file claims may be more than an int64 holds.
    elements: int = math.prod(tensor.dims)
    return -(-elements * bits // 8)


def _take_out_weights(proto: onnx.ModelProto, external: _ExternalData) -> dict[str, np.ndarray]:
    """Move large initializers of the main graph into a dict, and declare them as inputs."""
    weights: dict[str, np.ndarray] = {}
    kept: list[TensorProto] = []
    # Old models declare their initializers as inputs too; from IR version 4 on that is optional.
    proto.ir_version = max(proto.ir_version, 8)
    names = {tensor.name for tensor in proto.graph.initializer}
    inputs = [v.SerializeToString() for v in proto.graph.input if v.name not in names]
    del proto.graph.input[:]
    for data in inputs:
        proto.graph.input.add().ParseFromString(data)
    for tensor in proto.graph.initializer:
        is_external = tensor.data_location == TensorProto.EXTERNAL
        if tensor.data_type == TensorProto.STRING and not is_external:
            kept.append(tensor)
            continue
        try:
            array = external.load(tensor) if is_external else numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as err:
            raise ModelError(f"initializer `{tensor.name}` cannot be read: {err}") from err
        if array.nbytes <= _INLINE_BYTES:
            kept.append(numpy_helper.from_array(array, tensor.name) if is_external else tensor)
            continue
        weights[tensor.name] = array
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        proto.graph.input.append(info)
    copies = [t.SerializeToString() for t in kept]
    del proto.graph.initializer[:]
    for data in copies:
        proto.graph.initializer.add().ParseFromString(data)
    return weights


def _inline_attribute_tensors(
    graph: onnx.GraphProto | onnx.FunctionProto, external: _ExternalData
) -> None:
    """Load external tensors held by attributes and subgraphs: they are small by nature."""
    for node in graph.node:
        for attr in node.attribute:
            for sub in (attr.g, *attr.graphs):
                _inline_attribute_tensors(sub, external)
                for tensor in sub.initializer:
                    _inline(tensor, external)
            for tensor in (attr.t, *attr.tensors):
                _inline(tensor, external)


def _inline(tensor: TensorProto, external: _ExternalData) -> None:
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor.CopyFrom(numpy_helper.from_array(external.load(tensor), tensor.name))


def _warn_of_nan(model: OnnxModel) -> None:
    small = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    for name, array in (small | model.weights).items():
        with np.errstate(invalid="ignore"):
            # One pass without a temporary array; infinities of both signs give NaN as well.
            is_suspect = array.dtype.kind == "f" and np.isnan(array.sum(dtype=np.float64))
        if is_suspect:
            bad = int(np.count_nonzero(np.isnan(array)))
            if bad:
                model.warnings.append(f"weight `{name}` holds {bad} NaN values")
