"""From an ONNX file to a Relax module: the stages of import on one page.

read_model    file -> protobuf and weights                        load.py
simplify      checker, functions, opset, shapes, folding          simplify.py
convert       one converter per operator                          operators/
normalize     the invariants that passes may rely on              normalize.py
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import defs, helper, numpy_helper
from tvm import IRModule, relax

from relaxc.errors import ModelError, UnsupportedOpError
from relaxc.frontend import operators
from relaxc.frontend.load import OnnxModel, read_model
from relaxc.frontend.normalize import normalize
from relaxc.frontend.operators.base import NodeContext
from relaxc.frontend.shape_values import ShapeValue, evaluate, shape_of
from relaxc.frontend.simplify import Shape, first_line, nodes, opset, real_inputs, simplify


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
    """

    mod: IRModule
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sha256: str
    opset: int
    operators: tuple[str, ...]
    warnings: tuple[str, ...]


def from_onnx(
    source: str | os.PathLike[str] | onnx.ModelProto,
    input_shapes: Mapping[str, Shape] | None = None,
) -> ImportedModel:
    """Import an ONNX model.

    Args:
        source: path of the file, or a model in memory.
        input_shapes: input name -> dimensions; an int fixes a dimension, a string names it.

    Raises:
        ModelError: the model is unreadable or invalid.
        UnsupportedOpError: it holds operators that cannot be imported; all are listed.
        OptionError: `input_shapes` does not fit the model.
    """
    model = read_model(source)
    version = opset(model.proto)
    types = tuple(node.op_type for node in nodes(model.proto.graph))
    refuse_foreign_domains(model)
    simplify(model, input_shapes or {}, operators_to_inline(model))
    refuse_unsupported(model)
    inputs = tuple(value.name for value in real_inputs(model))
    outputs = tuple(value.name for value in model.proto.graph.output)
    converter = _Converter(model)
    mod = normalize(converter.convert(), converter.names)
    return ImportedModel(
        mod, model.name, inputs, outputs, model.sha256, version, types, tuple(model.warnings)
    )


def operators_to_inline(model: OnnxModel) -> frozenset[str]:
    """Operators without a converter whose ONNX schema has a function body."""
    names = set()
    for node in nodes(model.proto.graph):
        if node.domain in ("", "ai.onnx") and not operators.is_supported(node.op_type):
            with contextlib.suppress(defs.SchemaError):
                schema = defs.get_schema(node.op_type, max(opset(model.proto), 17))
                if schema.has_function or schema.has_context_dependent_function:
                    names.add(node.op_type)
    return frozenset(names)


def refuse_foreign_domains(model: OnnxModel) -> None:
    """Refuse operators of custom domains, which the converters would misread."""
    local = {(f.domain, f.name) for f in model.proto.functions}
    bodies = [node for f in model.proto.functions for node in f.node]
    _refuse(
        model,
        [
            node
            for node in (*nodes(model.proto.graph), *bodies)
            if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in local
        ],
    )


def refuse_unsupported(model: OnnxModel) -> None:
    """Refuse operators without a converter."""
    _refuse(model, [n for n in nodes(model.proto.graph) if not operators.is_supported(n.op_type)])


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


def node_name(node: onnx.NodeProto) -> str:
    """What users call a node: its name, else its first output."""
    return str(node.name or next((out for out in node.output if out), node.op_type))


def identifier(name: str) -> str:
    """`name` as a Relax variable name."""
    clean = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return clean if clean and not clean[0].isdigit() else f"n_{clean}"


class _Converter:
    """Walks the graph once and emits one Relax binding per ONNX node."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.graph = model.proto.graph
        self.opset = opset(model.proto)
        self.bb = relax.BlockBuilder()
        self.values: dict[str, relax.Expr] = {}
        self.shapes: dict[str, ShapeValue] = {}
        self.names: dict[relax.Var, str] = {}

    def convert(self) -> IRModule:
        params = self._parameters()
        self._add_initializers(self.graph)
        for name, array in self.model.weights.items():
            self.values[name] = constant(array)
        # A dataflow block cannot hold an If; normalize() restores dataflow around it.
        has_control_flow = any(n.op_type in operators.CONTROL_FLOW for n in self.graph.node)
        with self.bb.function("main", params, attrs={"num_input": len(params)}):
            scope = contextlib.nullcontext() if has_control_flow else self.bb.dataflow()
            with scope:
                self._convert_nodes(self.graph)
                results = [self._output(v.name) for v in self.graph.output]
                result = results[0] if len(results) == 1 else relax.Tuple(results)
                if not has_control_flow:
                    hint = ",".join(v.name for v in self.graph.output)
                    result = self.bb.emit_output(result, hint)
            self.bb.emit_func_output(result)
        return self.bb.get()

    def _parameters(self) -> list[relax.Var]:
        symbols: dict[str, tvm.tirx.Var] = {}
        params = []
        for value in real_inputs(self.model):
            tensor = value.type.tensor_type
            if not value.type.HasField("tensor_type"):
                raise ModelError(f"input `{value.name}` is not a tensor, which is not supported")
            dims = []
            for dim in tensor.shape.dim:
                if dim.HasField("dim_value"):
                    dims.append(dim.dim_value)
                    continue
                name = dim.dim_param
                symbols.setdefault(name, tvm.tirx.Var(identifier(name), "int64"))
                dims.append(symbols[name])
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
            if dtype == "object":
                raise ModelError(f"input `{value.name}` holds strings, which is not supported")
            var = relax.Var(identifier(value.name), relax.TensorType(dims, dtype))
            self.values[value.name] = var
            params.append(var)
        return params

    def _output(self, name: str) -> relax.Expr:
        if name not in self.values and name not in self.shapes:
            raise ModelError(f"output `{name}` of `{self.model.name}` is computed by no node")
        return self._tensor(name)

    def _add_initializers(self, graph: onnx.GraphProto) -> None:
        for init in graph.initializer:
            self._add_constant(init.name, numpy_helper.to_array(init))

    def _add_constant(self, name: str, array: np.ndarray) -> None:
        self.values[name] = constant(array)
        shape = ShapeValue.of(array)
        if shape is not None:
            self.shapes[name] = shape

    def _convert_nodes(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            # Folding leaves none in the main graph, but branches have their own.
            array = constant_node(node)
            if array is not None:
                self._add_constant(node.output[0], array)
                continue
            shape = self._shape_value(node)
            if shape is not None:
                self.shapes[node.output[0]] = shape
                continue
            parts = self._emit(self._convert_node(node), node)
            for name, part in zip(node.output, parts):
                if name:
                    self.values[name] = part

    def _shape_value(self, node: onnx.NodeProto) -> ShapeValue | None:
        """The node's result where it is arithmetic on dimensions only."""
        if node.op_type in ("Shape", "Size"):
            data = self.values.get(node.input[0])
            if data is None or not isinstance(getattr(data.ty, "shape", None), relax.ShapeExpr):
                return None
            attrs = {a.name: a.i for a in node.attribute}
            dims = list(data.ty.shape.values)[attrs.get("start", 0) : attrs.get("end")]
            return shape_of(dims) if node.op_type == "Shape" else None
        return evaluate(node, [self.shapes.get(name) for name in node.input])

    def _convert_node(self, node: onnx.NodeProto) -> relax.Expr:
        shapes = [self.shapes.get(name) for name in node.input]
        inputs = [self._tensor(name) if name else None for name in node.input]
        if node.op_type == "If":
            return self._convert_if(node, inputs[0])
        context = NodeContext(self.bb, node, attributes(node), inputs, shapes, self.opset)
        try:
            # TVM's converters print and warn on their own; what matters is in the exception.
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self.bb.normalize(operators.convert(context))
        except Exception as err:
            raise UnsupportedOpError(
                f"ONNX op `{node.op_type}` (node `{node_name(node)}`, opset {self.opset}) "
                f"cannot be imported: {first_line(err)}"
            ) from err

    def _tensor(self, name: str) -> relax.Expr:
        """The value called `name`; shape arithmetic becomes a tensor here, once."""
        if name not in self.values:
            self.values[name] = self._bind(self.shapes[name].as_tensor(), name)
        value = self.values[name]
        assert value is not None
        return value

    def _emit(self, result: relax.Expr, node: onnx.NodeProto) -> list[relax.Expr]:
        """Bind a converter's result under the node's name; constants and shapes stay."""
        hint = node_name(node)
        if isinstance(result, relax.Tuple):
            return [self._bind(part, hint) for part in result]
        if isinstance(result.ty, relax.TupleType):
            whole = self._bind(result, hint)
            count = len(result.ty.fields)
            return [self.bb.emit(relax.TupleGetItem(whole, i), hint) for i in range(count)]
        return [self._bind(result, hint)]

    def _bind(self, expr: relax.Expr, hint: str) -> relax.Expr:
        if isinstance(expr, relax.Call | relax.If | relax.TupleGetItem):
            return self.bb.emit(expr, hint)
        if isinstance(expr, relax.Var):  # bound by the converter itself
            self.names.setdefault(expr, hint)
        return expr

    def _convert_if(self, node: onnx.NodeProto, condition: relax.Expr) -> relax.Expr:
        branches = {a.name: a.g for a in node.attribute}
        then_branch = self._convert_branch(branches["then_branch"])
        else_branch = self._convert_branch(branches["else_branch"])
        return relax.If(condition, then_branch, else_branch)

    def _convert_branch(self, graph: onnx.GraphProto) -> relax.SeqExpr:
        outer, outer_shapes = dict(self.values), dict(self.shapes)
        self.bb._begin_binding_block()
        self._add_initializers(graph)
        self._convert_nodes(graph)
        results = [self._output(v.name) for v in graph.output]
        result = self.bb.emit(results[0] if len(results) == 1 else relax.Tuple(results))
        block = self.bb._end_block()
        self.values, self.shapes = outer, outer_shapes
        return relax.SeqExpr([block], result)


def constant(array: np.ndarray) -> relax.Expr:
    """A Relax constant; NumPy's `bool_` and non-contiguous arrays included."""
    return relax.const(np.ascontiguousarray(array).reshape(array.shape), array.dtype.name)


def constant_node(node: onnx.NodeProto) -> np.ndarray | None:
    """The value of a Constant node of numbers; None for any other node."""
    if node.op_type != "Constant":
        return None
    value = helper.get_attribute_value(node.attribute[0])
    if isinstance(value, onnx.TensorProto):
        return None if value.data_type == onnx.TensorProto.STRING else numpy_helper.to_array(value)
    array = np.array(value)
    kinds: dict[str, type] = {"f": np.float32, "i": np.int64}
    return array.astype(kinds[array.dtype.kind]) if array.dtype.kind in kinds else None


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node in the form that TVM's converters read."""
    attrs: dict[str, Any] = {}
    for attr in node.attribute:
        value = helper.get_attribute_value(attr)
        attrs[attr.name] = tuple(value) if isinstance(value, list) else value
    return attrs
