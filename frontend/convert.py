"""The walk over the ONNX graph that emits Relax: one converter per operator.

Three kinds of values live side by side: Relax expressions, shape arithmetic (`shape_values.py`),
and the ONNX element types of both, which say more than Relax's where a type is narrow
(`element_types.py`).
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper
from tvm import IRModule, relax

from relaxc.errors import ModelError, UnsupportedOpError
from relaxc.frontend import operators
from relaxc.frontend.element_types import carrier
from relaxc.frontend.load import OnnxModel
from relaxc.frontend.operators.base import MAX_ELEMENTS, NodeContext, constant
from relaxc.frontend.shape_values import ShapeValue, evaluate, shape_of, size_of
from relaxc.frontend.simplify import first_line, opset, real_inputs, type_complaint


def node_name(node: onnx.NodeProto) -> str:
    """What users call a node: its name, else its first output."""
    return str(node.name or next((out for out in node.output if out), node.op_type))


def identifier(name: str) -> str:
    """`name` as a Relax variable name."""
    clean = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return clean if clean and not clean[0].isdigit() else f"n_{clean}"


def refuse_impossible_sizes(model: OnnxModel) -> None:
    """Refuse tensors that no memory holds, before ONNX's shape inference tries to.

    Raises:
        ModelError: there is one.
    """
    graph = model.proto.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value]
        if _is_impossible(sizes):
            raise ModelError(
                f"tensor `{value.name}` has impossible dimensions: {sizes}; less than 2**31 along "
                "an axis and at most 2**40 elements are supported"
            )


_LOGICAL = frozenset({"And", "Or", "Xor", "Not"})


def _is_impossible(sizes: list[int]) -> bool:
    # Symbolic and empty dimensions aside: strides are computed of the others, even of nothing.
    too_many = math.prod(n for n in sizes if n) > MAX_ELEMENTS
    return too_many or any(not 0 <= n < 1 << 31 for n in sizes)


class GraphConverter:
    """Walks the graph once and emits one Relax binding per ONNX node."""

    def __init__(
        self, model: OnnxModel, on_node: Callable[[str], None] = lambda _node: None
    ) -> None:
        self.model = model
        self.on_node = on_node
        self.graph = model.proto.graph
        self.opset = opset(model.proto)
        self.bb = relax.BlockBuilder()
        self.values: dict[str, relax.Expr] = {}
        self.shapes: dict[str, ShapeValue] = {}
        self.names: dict[relax.Var, str] = {}
        self.types = _element_types(self.graph)

    def convert(self) -> IRModule:
        """The module, with one function `main`."""
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
            if tensor.elem_type not in helper.get_all_tensor_dtypes():
                raise ModelError(
                    f"input `{value.name}` has element type {tensor.elem_type}, which ONNX does "
                    "not know; declare a type"
                )
            dims = []
            for dim in tensor.shape.dim:
                if dim.HasField("dim_value"):
                    dims.append(dim.dim_value)
                    continue
                name = dim.dim_param
                symbols.setdefault(name, tvm.tirx.Var(identifier(name), "int64"))
                dims.append(symbols[name])
            dtype = carrier(tensor.elem_type)
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
            self.on_node(f"the import of node `{node_name(node)}`")
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
        if node.domain:
            return None
        if node.op_type in ("Shape", "Size"):
            data = self.values.get(node.input[0])
            if data is None and node.input[0] in self.shapes:
                data = self._tensor(node.input[0])
            if data is None or not isinstance(getattr(data.ty, "shape", None), relax.ShapeExpr):
                return None
            attrs = {a.name: a.i for a in node.attribute}
            dims = list(data.ty.shape.values)[attrs.get("start", 0) : attrs.get("end")]
            return shape_of(dims) if node.op_type == "Shape" else size_of(data.ty.shape.values)
        return evaluate(node, [self.shapes.get(name) for name in node.input])

    def _convert_node(self, node: onnx.NodeProto) -> relax.Expr:
        shapes = [self.shapes.get(name) for name in node.input]
        inputs = [self._tensor(name) if name else None for name in node.input]
        if node.op_type == "If" and not node.domain:
            return self.bb.emit(self._convert_if(node, inputs[0]), node_name(node))
        if node.op_type in _LOGICAL and any(
            v.ty.dtype.dtype != "bool" for v in inputs if v is not None
        ):
            raise UnsupportedOpError(
                f"ONNX op `{node.op_type}` (node `{node_name(node)}`) takes booleans only; cast "
                "its inputs"
            )
        context = NodeContext(
            self.bb,
            node,
            attributes(node),
            inputs,
            shapes,
            self.opset,
            [self.types.get(name, 0) for name in node.input],
            [self.types.get(name, 0) for name in node.output],
        )
        try:
            # TVM's converters print and warn on their own; what matters is in the exception.
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _of_known_shape(self.bb.normalize(operators.convert(context)))
        except Exception as err:
            raise UnsupportedOpError(
                f"ONNX op `{node.op_type}` (node `{node_name(node)}`, opset {self.opset}) "
                f"cannot be imported: {type_complaint(self.model) or first_line(err)}"
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


def _of_known_shape(result: relax.Expr) -> relax.Expr:
    """A converter's result, whose shape later stages must know at least by symbols.

    Raises:
        ValueError: they cannot.
    """
    parts = result.ty.fields if isinstance(result.ty, relax.TupleType) else [result.ty]
    for part in parts:
        if isinstance(part, relax.TensorType) and not isinstance(part.shape, relax.ShapeExpr):
            raise ValueError(
                "the shape of its result does not follow from the shapes of its inputs; "
                "declare dimensions that are equal as such, or fix them"
            )
        if isinstance(part, relax.TensorType):
            sizes = [_known_factor(d) for d in part.shape.values]
            if _is_impossible(sizes):
                raise ValueError(f"its result has impossible dimensions: {sizes}")
    return result


def _known_factor(size: tvm.tirx.Expr) -> int:
    """A size, but for what symbols contribute as factors."""
    if isinstance(size, tvm.tirx.IntImm):
        return int(size)
    if isinstance(size, tvm.tirx.Mul):
        return abs(_known_factor(size.a) * _known_factor(size.b))
    return 1


def _element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """The ONNX element type of every tensor that shape inference knows, subgraphs included."""
    types = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type:
            types[value.name] = int(value.type.tensor_type.elem_type)
    # Last: an output may be declared as anything, but an initializer is what it is.
    types |= {t.name: int(t.data_type) for t in graph.initializer}
    for node in graph.node:
        for attr in node.attribute:
            if attr.HasField("g"):
                types = _element_types(attr.g) | types
    return types


def constant_node(node: onnx.NodeProto) -> np.ndarray | None:
    """The value of a Constant node of numbers; None for any other node."""
    if node.op_type != "Constant" or node.domain:
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
