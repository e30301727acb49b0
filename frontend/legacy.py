"""Meanings of old operator sets that ONNX's version converter does not carry over."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from relaxc.errors import ModelError

# Since then, the slope of PRelu broadcasts from the last axis.
_PRELU_BROADCASTS = 7


def update_slopes(proto: onnx.ModelProto, version: int) -> None:
    """Give slopes per channel, vectors in old models, axes of length 1 for what follows channels.

    Raises:
        ModelError: the rank of a PRelu's data or slope is not known.
    """
    graph = proto.graph
    if version >= _PRELU_BROADCASTS or not any(n.op_type == "PRelu" for n in graph.node):
        return
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    shapes = {
        value.name: value.type.tensor_type.shape.dim
        for value in (*inferred.input, *inferred.value_info)
        if value.type.tensor_type.HasField("shape")
    }
    ranks = {name: len(dims) for name, dims in shapes.items()}
    ranks |= {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    changed: list[onnx.NodeProto] = []
    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "PRelu" and not node.domain:
            data, slope = node.input
            if data not in ranks or slope not in ranks:
                raise ModelError(
                    f"`PRelu` (node `{node.name or node.output[0]}`) of opset {version} reads "
                    "tensors of unknown rank, which is not supported; export the model again"
                )
            if ranks[slope] == 1 and ranks[data] > 2:
                name = f"{node.output[0]}.slope"
                shape = np.array([-1] + [1] * (ranks[data] - 2), np.int64)
                graph.initializer.append(numpy_helper.from_array(shape, f"{name}.shape"))
                changed.append(helper.make_node("Reshape", [slope, f"{name}.shape"], [name]))
                copy.input[1] = name
        changed.append(copy)
    del graph.node[:]
    graph.node.extend(changed)
