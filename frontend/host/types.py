"""Types of the values of a graph, containers included, as far as they are known before a run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
from onnx import TypeProto, helper, shape_inference

from relaxc.frontend.element_types import dtype_name

Types = dict[str, TypeProto]
# How the type of a sequence's elements says that there are none, so that any type may follow.
_EMPTY = "relaxc.empty"
_SEQUENCES = frozenset(
    ("SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt")
    + ("SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "Identity")
)
_MAX_ROUNDS = 4
_numbers = itertools.count()


def is_tensor(kind: TypeProto | None) -> bool:
    """Whether a type is that of a tensor of numbers."""
    return (
        kind is not None
        and kind.WhichOneof("value") == "tensor_type"
        and kind.tensor_type.elem_type not in (0, onnx.TensorProto.STRING)
    )


def has_rank(kind: TypeProto) -> bool:
    """Whether a tensor's rank is known."""
    return bool(kind.tensor_type.HasField("shape"))


def holds_objects(kind: TypeProto | None) -> bool:
    """Whether a value is a container or holds strings."""
    if kind is None or kind.WhichOneof("value") is None:
        return False
    if kind.WhichOneof("value") != "tensor_type":
        return True
    return bool(kind.tensor_type.elem_type == onnx.TensorProto.STRING)


def infer(
    graph: onnx.GraphProto,
    outer: Mapping[str, TypeProto],
    constants: Mapping[str, onnx.TensorProto],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> Types:
    """Types of a graph's own values, by ONNX's inference and by ours of sequences.

    Args:
        graph: the graph; its inputs and `value_info` say what is known so far.
        outer: types of values that it captures.
        constants: small constants that it captures.
        opsets: of the model.
    """
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    own = {v.name for v in copy.input} | {t.name for t in copy.initializer}
    copy.initializer.extend(t for name, t in constants.items() if name not in own)
    own |= set(constants)
    for name in sorted(captured(graph) - own):
        if name in outer and outer[name].WhichOneof("value"):
            copy.input.append(helper.make_value_info(name, outer[name]))
    given = {d.dim_param for v in copy.input for d in dimensions(v.type)}
    opsets = list(opsets)
    types = _annotated(copy, opsets)
    for _ in range(_MAX_ROUNDS):
        if not _follow_sequences(copy, types, opsets):
            break
    prefix = f"u{next(_numbers)}."
    for kind in types.values():
        for dim in dimensions(kind):
            # Inference invents names; those of one graph mean nothing in another.
            if dim.dim_param.startswith("unk__") and dim.dim_param not in given:
                dim.dim_param = prefix + dim.dim_param
    return types


def _annotated(graph: onnx.GraphProto, opsets: Iterable[onnx.OperatorSetIdProto]) -> Types:
    model = helper.make_model(graph, opset_imports=list(opsets))
    # A graph that contradicts itself keeps what it says.
    with contextlib.suppress(shape_inference.InferenceError, RuntimeError, ValueError):
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    types: Types = {}
    for tensor in graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type
    return {name: TypeProto.FromString(t.SerializeToString()) for name, t in types.items()}


def dimensions(kind: TypeProto) -> list[onnx.TensorShapeProto.Dimension]:
    """The dimensions of a tensor, or of a container's elements."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return list(kind.tensor_type.shape.dim)
    if which in ("sequence_type", "optional_type"):
        return dimensions(getattr(kind, which).elem_type)
    return []


def captured(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph reads and does not define."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    read = {value.name for value in graph.output}
    for node in graph.node:
        read |= reads(node)
    return read - own - {""}


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those that its graphs capture included."""
    names = {name for name in node.input if name}
    for body in bodies(node):
        names |= captured(body)
    return names


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds."""
    return [attr.g for attr in node.attribute if attr.HasField("g")]


def join(one: TypeProto, other: TypeProto) -> TypeProto:
    """The most specific type that covers both."""
    joined = TypeProto()
    which = one.WhichOneof("value")
    if which is None or which != other.WhichOneof("value"):
        return joined
    if which in ("sequence_type", "optional_type"):
        inner = [getattr(kind, which).elem_type for kind in (one, other)]
        full = [kind for kind in inner if kind.denotation != _EMPTY]
        element = join(full[0], full[-1]) if full else inner[0]
        getattr(joined, which).elem_type.CopyFrom(element)
        return joined
    joined.CopyFrom(one)
    left, right = one.tensor_type, other.tensor_type
    if left.elem_type != right.elem_type:
        return TypeProto()
    is_alike = left.HasField("shape") and right.HasField("shape")
    if not is_alike or len(left.shape.dim) != len(right.shape.dim):
        joined.tensor_type.ClearField("shape")
        return joined
    for mine, a, b in zip(joined.tensor_type.shape.dim, left.shape.dim, right.shape.dim):
        if a != b:
            mine.Clear()
    return joined


def _follow_sequences(
    graph: onnx.GraphProto, types: Types, opsets: Iterable[onnx.OperatorSetIdProto]
) -> bool:
    """Follow the elements of sequences, about which ONNX's inference gives up too early.

    Returns:
        Whether anything new came out.
    """
    changed = False
    for node in graph.node:
        if node.op_type not in _SEQUENCES or node.domain or not node.output[0]:
            continue
        found = _sequence_result(node, [types.get(name, TypeProto()) for name in node.input])
        before = types.get(node.output[0], TypeProto())
        if found.WhichOneof("value") and found != before:
            types[node.output[0]] = found
            changed = True
    if not changed:
        return False
    # What follows from them: tensors whose rank is known now.
    named = {value.name for value in (*graph.input, *graph.output)}
    del graph.value_info[:]
    for name, kind in types.items():
        if name not in named and is_tensor(kind):
            graph.value_info.append(helper.make_value_info(name, kind))
    for value in graph.output:
        if is_tensor(types.get(value.name)):
            value.type.CopyFrom(types[value.name])
    again = _annotated(graph, opsets)
    types.update({name: kind for name, kind in again.items() if is_tensor(kind) and has_rank(kind)})
    return True


def _sequence_result(node: onnx.NodeProto, inputs: list[TypeProto]) -> TypeProto:
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    result = TypeProto()
    elements = [_element(kind) for kind in inputs]
    op = node.op_type
    if op == "SequenceEmpty":
        element = result.sequence_type.elem_type
        element.tensor_type.elem_type = attrs.get("dtype", onnx.TensorProto.FLOAT)
        element.denotation = _EMPTY
    elif op == "SequenceConstruct":
        element = inputs[0]
        for other in inputs[1:]:
            element = join(element, other)
        result.sequence_type.elem_type.CopyFrom(element)
    elif op == "SequenceInsert":
        one = TypeProto()
        one.sequence_type.elem_type.CopyFrom(inputs[1])
        return join(inputs[0], one)
    elif op == "SplitToSequence":
        result.sequence_type.elem_type.CopyFrom(_without_axis(inputs[0], attrs))
        shape = result.sequence_type.elem_type.tensor_type.shape
        is_single = len(node.input) < 2 or not node.input[1]
        if is_single and not attrs.get("keepdims", 1) and shape.dim:
            del shape.dim[attrs.get("axis", 0) % len(shape.dim)]
    elif op == "ConcatFromSequence":
        if elements[0].denotation == _EMPTY:
            return result
        result.CopyFrom(_without_axis(elements[0], attrs))
        if attrs.get("new_axis", 0):
            result.CopyFrom(elements[0])
            dims = [
                onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString())
                for d in elements[0].tensor_type.shape.dim
            ]
            dims.insert(attrs["axis"] % (len(dims) + 1), onnx.TensorShapeProto.Dimension())
            del result.tensor_type.shape.dim[:]
            result.tensor_type.shape.dim.extend(dims)
    elif op == "SequenceAt":
        return TypeProto() if elements[0].denotation == _EMPTY else elements[0]
    elif op in ("SequenceErase", "Identity"):
        return inputs[0]
    elif op == "Optional" and inputs:
        result.optional_type.elem_type.CopyFrom(inputs[0])
    elif op == "OptionalGetElement":
        is_optional = inputs[0].WhichOneof("value") == "optional_type"
        return elements[0] if is_optional else inputs[0]
    return result


def _element(kind: TypeProto) -> TypeProto:
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        inner: TypeProto = getattr(kind, which).elem_type
        return inner
    return TypeProto()


def _without_axis(kind: TypeProto, attrs: Mapping[str, int]) -> TypeProto:
    """The type, with nothing known of the length along an axis."""
    result = TypeProto()
    result.CopyFrom(kind)
    shape = result.tensor_type.shape
    if shape.dim:
        shape.dim[attrs.get("axis", 0) % len(shape.dim)].Clear()
    return result


def small_constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and Constant nodes of a graph, by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain:
            tensor = _constant(node)
            if tensor is not None:
                found[node.output[0]] = tensor
    return found


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    attr = node.attribute[0]
    value = helper.get_attribute_value(attr)
    if isinstance(value, onnx.TensorProto):
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    kinds = {
        "value_float": onnx.TensorProto.FLOAT,
        "value_floats": onnx.TensorProto.FLOAT,
        "value_int": onnx.TensorProto.INT64,
        "value_ints": onnx.TensorProto.INT64,
        "value_string": onnx.TensorProto.STRING,
        "value_strings": onnx.TensorProto.STRING,
    }
    if attr.name not in kinds:
        return None
    listed = list(value) if attr.name.endswith("s") else [value]
    shape = [len(listed)] if attr.name.endswith("s") else []
    return helper.make_tensor(node.output[0], kinds[attr.name], shape, listed)


def describe_value(name: str, kind: TypeProto) -> dict[str, Any]:
    """An input or output as manifests have it: `sequence(float32)` and the like are its dtype."""
    dtype, dims = _described(kind)
    shape = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims or ()
    ]
    entry: dict[str, Any] = {"name": name, "dtype": dtype, "shape": shape}
    if dims is None:
        entry["rank"] = None
    return entry


def _described(kind: TypeProto) -> tuple[str, list[onnx.TensorShapeProto.Dimension] | None]:
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        element = kind.tensor_type.elem_type
        name = "string" if element == onnx.TensorProto.STRING else dtype_name(element)
        has_shape = kind.tensor_type.HasField("shape")
        return name, list(kind.tensor_type.shape.dim) if has_shape else None
    if which in ("sequence_type", "optional_type"):
        inner, dims = _described(getattr(kind, which).elem_type)
        return f"{which.removesuffix('_type')}({inner})", dims
    return "unknown", None
