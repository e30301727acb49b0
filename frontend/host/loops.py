"""Types around loops and branches that the host runs: what holds in every iteration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
from onnx import TypeProto, helper

from relaxc.errors import ModelError
from relaxc.frontend.convert import node_name
from relaxc.frontend.element_types import dtype_name
from relaxc.frontend.host import types as ty

# Types of a loop's state settle soon: they only become less specific.
_MAX_ROUNDS = 8


def branch_types(
    node: onnx.NodeProto,
    kinds: Mapping[str, TypeProto],
    small: Mapping[str, onnx.TensorProto],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> ty.Types:
    """Types of an If's results, whichever branch is taken."""
    ends = []
    for body in ty.bodies(node):
        inner = {**kinds, **ty.infer(body, kinds, small, opsets)}
        ends.append([inner.get(value.name, TypeProto()) for value in body.output])
    joined = [ty.join(one, other) for one, other in zip(*ends)]
    return {name: kind for name, kind in zip(node.output, joined) if name}


def settle(
    node: onnx.NodeProto,
    body: onnx.GraphProto,
    kinds: Mapping[str, TypeProto],
    small: Mapping[str, onnx.TensorProto],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> tuple[onnx.GraphProto, ty.Types]:
    """The body of a Loop or Scan with types of its state that hold in every iteration.

    It starts with the types of the initial state, and widens them until an iteration keeps them.

    Returns:
        The body, and the types of all values that it sees.

    Raises:
        ModelError: there are no such types.
    """
    is_loop = node.op_type == "Loop"
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    graph = onnx.GraphProto()
    graph.CopyFrom(body)
    del graph.value_info[:]
    for value in graph.output:
        if ty.is_tensor(value.type):
            value.type.tensor_type.ClearField("shape")
    first = 2 if is_loop else 0
    states = len(node.input) - (2 if is_loop else attrs["num_scan_inputs"])
    given = [kinds.get(name, TypeProto()) for name in node.input]
    current = [_copy(kind) for kind in given[first : first + states]]
    for kind, value in zip(current, graph.input[first:]):
        if kind.WhichOneof("value") is None:
            kind.CopyFrom(value.type)
    if not is_loop:
        axes = attrs.get("scan_input_axes") or [0] * attrs["num_scan_inputs"]
        for value, kind, axis in zip(graph.input[states:], given[states:], axes):
            value.type.CopyFrom(_slice(kind, axis))
    else:
        for value, element in zip(graph.input, (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)):
            rank = len(value.type.tensor_type.shape.dim)
            value.type.CopyFrom(helper.make_tensor_type_proto(element, [1] * rank))
    inner: ty.Types = {}
    for _ in range(_MAX_ROUNDS):
        for value, kind in zip(graph.input[first:], current):
            value.type.CopyFrom(kind)
        inner = {**kinds, **ty.infer(graph, kinds, small, opsets)}
        ends = [inner.get(v.name, TypeProto()) for v in graph.output][is_loop:]
        joined = [ty.join(one, other) for one, other in zip(current, ends)]
        if joined == current:
            return graph, inner
        current = joined
    raise ModelError(f"the types of the state of loop `{node_name(node)}` do not settle")


def _copy(kind: TypeProto) -> TypeProto:
    copy = TypeProto()
    copy.CopyFrom(kind)
    return copy


def _slice(kind: TypeProto, axis: int) -> TypeProto:
    """The type of a slice at one position of an axis."""
    result = _copy(kind)
    shape = result.tensor_type.shape
    if shape.dim:
        del shape.dim[axis % len(shape.dim)]
    return result


def stack(kind: TypeProto, axis: int) -> TypeProto:
    """The type of any number of such tensors along a new axis."""
    result = _copy(kind)
    if ty.is_tensor(kind) and ty.has_rank(kind):
        dims = list(_copy(kind).tensor_type.shape.dim)
        dims.insert(axis % (len(dims) + 1), onnx.TensorShapeProto.Dimension())
        del result.tensor_type.shape.dim[:]
        result.tensor_type.shape.dim.extend(dims)
        for dim in result.tensor_type.shape.dim:
            # The iterations agree on lengths, but which they are is known inside of the body only.
            if dim.dim_param:
                dim.ClearField("dim_param")
    return result


def stacked(kind: TypeProto) -> dict[str, Any]:
    """What the host must know to stack no results at all."""
    tensor = kind.tensor_type
    shape = [d.dim_value for d in tensor.shape.dim] if tensor.HasField("shape") else None
    return {"dtype": dtype_name(tensor.elem_type) if tensor.elem_type else None, "shape": shape}
