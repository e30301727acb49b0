"""Meanings of old operator sets that ONNX's version converter does not carry over."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from relaxc.errors import ModelError
from relaxc.frontend.fold import annotated

# Until then, Upsample and Resize count from the first element's edge, which the converter forgets.
_RESIZE_HAS_MODES = 11
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
    ranks = _ranks(proto)
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


def resized(nodes: Iterable[onnx.NodeProto], version: int) -> dict[str, bool]:
    """The results of nodes that count as Resize did before it had modes; whether they only grow."""
    if version >= _RESIZE_HAS_MODES:
        return {}
    return {
        node.output[0]: node.op_type == "Upsample"
        for node in nodes
        if node.op_type in ("Resize", "Upsample") and not node.domain
    }


def restore_resize_modes(
    nodes: list[onnx.NodeProto], initializers: Iterable[onnx.TensorProto], grows: dict[str, bool]
) -> None:
    """Say in attributes how the nodes that `resized` has found count, after their conversion.

    They take the element before a position along axes that grow, and the one behind it along
    those that shrink. Where both may be, that is `nearest_mode="simple"`, which ONNX does not
    have, but the converter of Resize.
    """
    known = {tensor.name: tensor for tensor in initializers}
    for node in nodes:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = node.attribute[0].t
    for node in nodes:
        if node.op_type != "Resize" or node.domain or node.output[0] not in grows:
            continue
        scales = known.get(node.input[2])
        mode = "floor" if grows[node.output[0]] else "simple"
        if scales is not None:
            values = numpy_helper.to_array(scales)
            mode = "floor" if (values >= 1).all() else "ceil" if (values <= 1).all() else "simple"
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": mode}
        kept = [attr for attr in node.attribute if attr.name not in modes]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.extend(helper.make_attribute(name, text) for name, text in modes.items())


def _ranks(proto: onnx.ModelProto) -> dict[str, int]:
    """The rank of every tensor of the main graph where it is known."""
    inferred = annotated(proto).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info)
        if value.type.tensor_type.HasField("shape")
    }
    return ranks | {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
