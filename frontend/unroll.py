"""Write a Scan of a known number of steps as that many copies of its body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from relaxc.frontend.fold import annotated, static_shapes

# More nodes than this would take longer to compile than anyone waits.
_MAX_NODES = 4000


def unroll_scans(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every Scan of the main graph unrolled whose length is known."""
    if not any(n.op_type == "Scan" and not n.domain for n in proto.graph.node):
        return proto
    shapes = static_shapes(annotated(proto).graph)
    graph = proto.graph
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(graph.node):
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        steps = _steps(node, attrs, shapes) if node.op_type == "Scan" and not node.domain else None
        if steps is None or steps * len(attrs["body"].node) > _MAX_NODES:
            nodes.append(node)
        else:
            nodes.extend(_unrolled(graph, node, attrs, steps, f"scan{number}"))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return proto


def _steps(
    node: onnx.NodeProto, attrs: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]
) -> int | None:
    count = int(str(attrs["num_scan_inputs"]))
    first = node.input[len(node.input) - count]
    axes = attrs.get("scan_input_axes") or [0] * count
    assert isinstance(axes, Sequence)
    return shapes[first][int(axes[0])] if first in shapes else None


def _unrolled(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    attrs: Mapping[str, object],
    steps: int,
    prefix: str,
) -> list[onnx.NodeProto]:
    body = attrs["body"]
    assert isinstance(body, onnx.GraphProto)
    count = int(str(attrs["num_scan_inputs"]))
    states = len(node.input) - count
    outputs = len(node.output) - states

    def listed(name: str, size: int) -> list[int]:
        value = attrs.get(name) or [0] * size
        assert isinstance(value, Sequence)
        return [int(v) for v in value]

    in_axes, out_axes = listed("scan_input_axes", count), listed("scan_output_axes", outputs)
    backward = listed("scan_input_directions", count)
    out_backward = listed("scan_output_directions", outputs)
    result: list[onnx.NodeProto] = []

    def constant(name: str, value: int | list[int]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    current = list(node.input[:states])
    parts: list[list[str]] = [[] for _ in range(outputs)]
    for step in range(steps):
        names: dict[str, str] = {}
        for value, outer in zip(body.input, current):
            names[value.name] = outer
        for k in range(count):
            at = steps - 1 - step if backward[k] else step
            index = constant(f"{prefix}_at{k}_{step}", at)
            name = f"{prefix}_in{k}_{step}"
            source = node.input[states + k]
            gather = helper.make_node("Gather", [source, index], [name], axis=in_axes[k])
            result.append(gather)
            names[body.input[states + k].name] = name
        for tensor in body.initializer:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = names[tensor.name] = f"{prefix}_{tensor.name}_{step}"
            graph.initializer.append(copy)
        result.extend(_copied(body.node, names, f"{prefix}_", f"_{step}"))
        finals = [names.get(value.name, value.name) for value in body.output]
        current = finals[:states]
        for k, final in enumerate(finals[states:]):
            axis = constant(f"{prefix}_axis{k}_{step}", [out_axes[k]])
            name = f"{prefix}_out{k}_{step}"
            result.append(helper.make_node("Unsqueeze", [final, axis], [name]))
            parts[k].append(name)
    for outer, final in zip(node.output[:states], current):
        if outer:
            result.append(helper.make_node("Identity", [final], [outer]))
    for k, outer in enumerate(node.output[states:]):
        if outer:
            ordered = parts[k][::-1] if out_backward[k] else parts[k]
            result.append(helper.make_node("Concat", ordered, [outer], axis=out_axes[k]))
    return result


def _copied(
    nodes: Sequence[onnx.NodeProto], names: dict[str, str], prefix: str, suffix: str
) -> list[onnx.NodeProto]:
    """Copies of nodes whose results get new names; `names` is extended by them."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{prefix}{node.name}{suffix}"
        for i, name in enumerate(node.input):
            copy.input[i] = names.get(name, name)
        for attr in copy.attribute:
            if attr.HasField("g"):
                inner = dict(names)
                body = _copied(attr.g.node, inner, prefix, suffix)
                del attr.g.node[:]
                attr.g.node.extend(body)
                for value in attr.g.output:
                    value.name = inner.get(value.name, value.name)
        for i, name in enumerate(node.output):
            if name:
                copy.output[i] = names[name] = f"{prefix}{name}{suffix}"
        copies.append(copy)
    return copies
