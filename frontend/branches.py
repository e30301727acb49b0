"""Replace an If by one of its branches where that is possible before the model runs.

Exporters write `x.squeeze(axis)`, whose rank depends on a size, as

    If(Shape(x)[axis] == 1) { then: Squeeze(x, axis) } else { Identity(x) }

A compiled model has one rank for each tensor. So where nodes go on computing with the result, the
squeeze is taken; that the size is 1 is checked when the model runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper


def with_branches_chosen(
    graph: onnx.GraphProto, known: dict[str, np.ndarray]
) -> Iterator[onnx.NodeProto]:
    """The nodes, with every If of a known condition replaced by its branch.

    Args:
        graph: its initializers are extended by those of the branches chosen.
        known: constants by name; extended alike.
    """
    made = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type != "If" or node.domain:
            yield node
            continue
        if node.input[0] in known:
            branch = "then_branch" if known[node.input[0]].all() else "else_branch"
        elif node.output[0] not in outputs and _is_squeeze(node, made, known):
            branch = "then_branch"
        else:
            yield node
            continue
        chosen = next(attr.g for attr in node.attribute if attr.name == branch)
        for tensor in chosen.initializer:
            known[tensor.name] = numpy_helper.to_array(tensor)
            graph.initializer.append(tensor)
        yield from chosen.node
        for outer, inner in zip(node.output, chosen.output):
            yield helper.make_node("Identity", [inner.name], [outer])


def _is_squeeze(
    node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], known: Mapping[str, np.ndarray]
) -> bool:
    """Whether an If squeezes an axis if its size is 1, and else does nothing."""
    branches = {attr.name: attr.g for attr in node.attribute}
    squeeze = _only_node(branches["then_branch"], "Squeeze")
    identity = _only_node(branches["else_branch"], "Identity")
    if squeeze is None or identity is None or squeeze.input[0] != identity.input[0]:
        return False
    constants = {**known, **_constants(branches["then_branch"])}
    axes = constants.get(squeeze.input[1]) if len(squeeze.input) > 1 else None
    equal = made.get(node.input[0])
    if axes is None or axes.size != 1 or equal is None or equal.op_type != "Equal":
        return False
    size, one = equal.input if equal.input[1] in known else reversed(equal.input)
    gather = made.get(size)
    if one not in known or known[one].size != 1 or known[one].item() != 1:
        return False
    if gather is None or gather.op_type != "Gather" or gather.input[1] not in known:
        return False
    shape, index = made.get(gather.input[0]), known[gather.input[1]]
    return (
        shape is not None
        and shape.op_type == "Shape"
        and not shape.attribute
        and shape.input[0] == squeeze.input[0]
        and index.size == 1
        and index.item() == axes.item()
    )


def _only_node(graph: onnx.GraphProto, op_type: str) -> onnx.NodeProto | None:
    """The node that gives the graph's one result, if it is of this kind and all there is."""
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    if len(nodes) != 1 or nodes[0].op_type != op_type or nodes[0].domain:
        return None
    results = [value.name for value in graph.output]
    return nodes[0] if results == [nodes[0].output[0]] else None


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found
