"""From an ONNX file to a Relax module: the stages of import on one page.

read_model    file -> protobuf and weights                        load.py
simplify      checker, functions, opset, shapes, folding          simplify.py
convert       one converter per operator                          convert.py, operators/
normalize     the invariants that passes may rely on              normalize.py

A model with loops, sequences, optionals, strings or random numbers is divided first; the parts that
are compiled go through the last two stages one by one                       host/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from tvm import IRModule

from relaxc.errors import ModelError, UnsupportedOpError
from relaxc.frontend import operators
from relaxc.frontend.convert import GraphConverter, node_name, refuse_impossible_sizes
from relaxc.frontend.element_types import NARROW, dtype_name
from relaxc.frontend.extension import NOTHING, Extension
from relaxc.frontend.host.operators import ON_HOST
from relaxc.frontend.host.partition import divide, needs_host
from relaxc.frontend.host.types import describe_value
from relaxc.frontend.load import OnnxModel, read_model
from relaxc.frontend.normalize import normalize
from relaxc.frontend.operators.base import operator_name
from relaxc.frontend.simplify import Shape, nodes, opset, real_inputs, simplify


@dataclass(frozen=True)
class ImportedModel:
    """What the compiler needs to know of an ONNX model.

    Attributes:
        mod: one Relax function `main`; weights are constants in it.
        name: the file's stem, or the graph's name.
        inputs: ONNX names of the inputs, in the order of `main`'s parameters.
        outputs: ONNX names of the outputs, in the order of `main`'s results.
        sha256: hex digest of the model file and its external data.
        opset: version of the default operator set in the file.
        operators: type of every node in the file, with those of branches and loop bodies.
        warnings: oddities that do not stop the compilation.
        narrow: inputs and outputs of types that compiled code carries as bytes -> NumPy's name of
            the type, such as `float8_e4m3fn` or `int4`.
        source: the graph as it was converted, if it was asked for.
    """

    mod: IRModule
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sha256: str
    opset: int
    operators: tuple[str, ...]
    warnings: tuple[str, ...]
    narrow: Mapping[str, str] = field(default_factory=dict)
    source: OnnxModel | None = None


@dataclass(frozen=True)
class ImportedProgram:
    """A model that the host runs in steps, some of which are compiled.

    Attributes:
        pieces: the compiled parts, each like a model of its own.
        graph: the steps, as JSON: see `relaxc.runtime.programs`.
        constants: what steps of the host read; strings as arrays of objects.
        inputs, outputs: name, dtype and shape of each, as manifests have them.
        name, sha256, opset, operators, warnings: as of `ImportedModel`.
    """

    pieces: tuple[ImportedModel, ...]
    graph: Mapping[str, Any]
    constants: Sequence[np.ndarray]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    name: str
    sha256: str
    opset: int
    operators: tuple[str, ...]
    warnings: tuple[str, ...]


def from_onnx(
    source: str | os.PathLike[str] | onnx.ModelProto,
    input_shapes: Mapping[str, Shape] | None = None,
    extension: Extension = NOTHING,
    keeps_source: bool = False,
) -> ImportedModel:
    """Import an ONNX model that is compiled as a whole.

    Args:
        source: path of the file, or a model in memory.
        input_shapes: input name -> dimensions; an int fixes a dimension, a string names it.
        extension: preprocessing and postprocessing that become a part of the model.
        keeps_source: whether the graph is kept for export.

    Raises:
        ModelError: the model is unreadable or invalid, or it needs the host.
        UnsupportedOpError: it holds operators that cannot be imported; all are listed.
        OptionError: `input_shapes` or `extension` does not fit the model.
    """
    imported = import_model(source, input_shapes, extension, keeps_source=keeps_source)
    if isinstance(imported, ImportedProgram):
        raise ModelError(
            f"`{imported.name}` has loops, sequences, strings or random numbers, which run on the "
            "host; this is not supported here"
        )
    return imported


def import_model(
    source: str | os.PathLike[str] | onnx.ModelProto,
    input_shapes: Mapping[str, Shape] | None = None,
    extension: Extension = NOTHING,
    on_node: Callable[[str], None] = lambda _node: None,
    keeps_source: bool = False,
) -> ImportedModel | ImportedProgram:
    """Import any ONNX model; other arguments and errors are those of `from_onnx`.

    Args:
        source, input_shapes, extension, keeps_source: as of `from_onnx`.
        on_node: told every node, as its turn comes.
    """
    model = read_model(source)
    version = opset(model.proto)
    types = tuple(node.op_type for node in nodes(model.proto.graph))
    refuse_impossible_sizes(model)
    simplify(model, input_shapes or {}, operators.is_supported, extension)
    refuse_unsupported(model)
    if not needs_host(model):
        imported = _convert(model, version, types, on_node)
        return replace(imported, source=model) if keeps_source else imported
    program = divide(model)
    pieces = tuple(_convert(piece, version, (), on_node) for piece in program.pieces)
    proto = model.proto
    return ImportedProgram(
        pieces,
        program.graph,
        program.constants,
        [describe_value(value.name, value.type) for value in real_inputs(model)],
        [describe_value(v.name, program.types.get(v.name, v.type)) for v in proto.graph.output],
        model.name,
        model.sha256,
        version,
        types,
        tuple(model.warnings),
    )


def _convert(
    model: OnnxModel, version: int, types: tuple[str, ...], on_node: Callable[[str], None]
) -> ImportedModel:
    """The last stages, of a model or of a piece of one."""
    inputs = tuple(value.name for value in real_inputs(model))
    outputs = tuple(value.name for value in model.proto.graph.output)
    converter = GraphConverter(model, on_node)
    mod = normalize(converter.convert(), converter.names)
    narrow = {
        name: dtype_name(converter.types[name])
        for name in (*inputs, *outputs)
        if converter.types.get(name) in NARROW
    }
    warnings = tuple(model.warnings)
    return ImportedModel(
        mod, model.name, inputs, outputs, model.sha256, version, types, warnings, narrow
    )


def refuse_unsupported(model: OnnxModel) -> None:
    """Refuse operators without a converter or a function on the host."""
    offending = [
        node
        for node in nodes(model.proto.graph)
        if operator_name(node) not in ON_HOST and not operators.is_supported(operator_name(node))
    ]
    _refuse(model, offending)


def _refuse(model: OnnxModel, offending: list[onnx.NodeProto]) -> None:
    if not offending:
        return
    by_op: dict[str, list[str]] = {}
    for node in offending:
        key = f"{node.domain or 'ai.onnx'}::{node.op_type}"
        by_op.setdefault(key, []).append(node_name(node))
    listed = "; ".join(
        f"`{op}` (node {', '.join(f'`{n}`' for n in names[:3])}"
        + (f" and {len(names) - 3} more)" if len(names) > 3 else ")")
        for op, names in sorted(by_op.items())
    )
    raise UnsupportedOpError(
        f"`{model.name}` uses operators that relaxc cannot import: {listed}; "
        "replace them in the exporter, or open an issue with the model"
    )
