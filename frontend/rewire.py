"""Let the readers of a value read another one."""

from __future__ import annotations

import onnx


def rename_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename what nodes read, those of branches and loop bodies included, and graph outputs.

    Names are unique in a valid graph, so that none of them hides another.
    """
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
        for attr in node.attribute:
            for body in ([attr.g] if attr.HasField("g") else []) + list(attr.graphs):
                rename_uses(body, old, new)


def rename_result(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give the value that a node computes another name, for all who read it as well."""
    rename_uses(graph, old, new)
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = new
