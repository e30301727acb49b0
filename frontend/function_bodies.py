"""Replace operators by the function bodies that ONNX defines them with.

A body may depend on the node's attributes and on the types of its inputs, so every node gets a
model-local function of its own, which ONNX's inliner then expands. Bodies may use operators that
have bodies themselves: the importer repeats this until none is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx.inliner
from onnx import defs, shape_inference

from relaxc.frontend.operators.base import operator_name

_DOMAIN = "relaxc.body"


def has_body(name: str, versions: Mapping[str, int]) -> bool:
    """Whether an operator is defined by a function.

    Args:
        name: what `operator_name` returns.
        versions: domain -> version of its operators.
    """
    domain, _, op_type = name.rpartition("::")
    try:
        schema = defs.get_schema(op_type, versions.get(domain, 1), domain)
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def inline_bodies(
    proto: onnx.ModelProto, names: frozenset[str], versions: Mapping[str, int]
) -> onnx.ModelProto:
    """The model with every node of the operators `names` expanded.

    Raises:
        ValueError: ONNX has no body for a node's attributes or types.
    """
    inferred = shape_inference.infer_shapes(proto, data_prop=True)
    found = False
    for graph, types in _graphs(inferred.graph, {}):
        for node in graph.node:
            if operator_name(node) in names:
                body = _body(node, types, versions, len(inferred.functions))
                inferred.functions.append(body)
                node.op_type, node.domain = body.name, _DOMAIN
                del node.attribute[:]
                found = True
    if not found:
        return proto
    inferred.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    expanded = onnx.inliner.inline_local_functions(inferred)
    kept = [entry for entry in expanded.opset_import if entry.domain != _DOMAIN]
    copies = [(entry.domain, entry.version) for entry in kept]
    del expanded.opset_import[:]
    expanded.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in copies)
    return expanded


def _graphs(
    graph: onnx.GraphProto, outer: dict[str, onnx.TypeProto]
) -> Iterator[tuple[onnx.GraphProto, dict[str, onnx.TypeProto]]]:
    """Every graph of a model, with the types of the values that it sees."""
    types = dict(outer)
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type
    yield graph, types
    for node in graph.node:
        for attr in node.attribute:
            if attr.HasField("g"):
                yield from _graphs(attr.g, types)


def _body(
    node: onnx.NodeProto,
    types: dict[str, onnx.TypeProto],
    versions: Mapping[str, int],
    number: int,
) -> onnx.FunctionProto:
    schema = defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
    opset = versions[""]
    given = {attr.name for attr in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.name:
            node.attribute.append(attribute.default_value)
    version = max(
        (v for v in _versions(schema) if v <= opset), default=min(_versions(schema), default=opset)
    )
    if schema.has_context_dependent_function:
        empty = onnx.TypeProto()
        listed = [types.get(name, empty).SerializeToString() for name in node.input]
        data = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), listed
        )
    else:
        data = schema.get_function_with_opset_version(version)
    body = onnx.FunctionProto.FromString(
        data if isinstance(data, bytes) else data.SerializeToString()
    )
    if not body.node:
        raise ValueError(f"ONNX has no body for this use of `{node.op_type}`")
    attributes = {attr.name: attr for attr in node.attribute}
    for inner in body.node:
        _resolve(inner, attributes)
    body.name, body.domain = f"{node.op_type}_{number}", _DOMAIN
    del body.attribute[:]
    del body.attribute_proto[:]
    # Its operators mean the same in the model's version, which is at least as new.
    del body.opset_import[:]
    body.opset_import.append(onnx.helper.make_opsetid("", opset))
    return body


def _versions(schema: defs.OpSchema) -> list[int]:
    if schema.has_context_dependent_function:
        return [int(v) for v in schema.context_dependent_function_opset_versions]
    return [int(v) for v in schema.function_opset_versions]


def _resolve(node: onnx.NodeProto, given: dict[str, onnx.AttributeProto]) -> None:
    """Put the values of the function's attributes in place of references to them."""
    kept = []
    for attr in node.attribute:
        if attr.ref_attr_name:
            if attr.ref_attr_name not in given:
                continue
            value = onnx.AttributeProto()
            value.CopyFrom(given[attr.ref_attr_name])
            value.name = attr.name
            kept.append(value)
            continue
        copy = onnx.AttributeProto()
        copy.CopyFrom(attr)
        if copy.HasField("g"):
            for inner in copy.g.node:
                _resolve(inner, given)
        kept.append(copy)
    del node.attribute[:]
    node.attribute.extend(kept)
