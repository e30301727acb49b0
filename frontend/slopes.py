"""Slopes of PRelu that would make its data grow, which ONNX forbids and ONNX Runtime allows.

Shape inference believes the standard, so a `Shape` of such a node would be folded to wrong numbers.
"""

from __future__ import annotations

import onnx

from relaxc.errors import ModelError


def refuse_wide_slopes(proto: onnx.ModelProto) -> None:
    """Refuse every PRelu whose slope has more axes or longer ones than its data.

    Raises:
        ModelError: there is one.
    """
    graph = proto.graph
    if not any(node.op_type == "PRelu" for node in graph.node):
        return
    shapes: dict[str, list[int | str]] = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "PRelu" or any(name not in shapes for name in node.input):
            continue
        data, slope = (shapes[name] for name in node.input)
        pairs = zip(reversed(data), reversed(slope))
        if len(slope) > len(data) or any(d == 1 and s not in (0, 1) for d, s in pairs):
            raise ModelError(
                f"`PRelu` (node `{node.name or node.output[0]}`) has a slope of shape {slope}, "
                f"which does not broadcast to its data of shape {data}; expand the data before"
            )
