"""Make every intermediate result of an ONNX model an output, to find where two runs part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from relaxc.errors import ModelError
from relaxc.frontend.load import OnnxModel
from relaxc.measure.weights import save, weights_aside


@dataclass(frozen=True)
class Layer:
    """An ONNX node.

    Attributes:
        node: its name, else its first output.
        op: its type.
        outputs: those of its results that were exposed.
    """

    node: str
    op: str
    outputs: tuple[str, ...]


def expose_layers(source: Path, target: Path) -> list[Layer]:
    """Write a variant of a model whose outputs are all intermediate results.

    Args:
        source: the ONNX file.
        target: the file to write; large weights go to files beside it.

    Returns:
        The layers in topological order.

    Raises:
        ModelError: the model cannot be read.
    """
    try:
        model = onnx.load(source)
        with weights_aside(OnnxModel(model, {}, "", source.stem)):
            typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as err:  # protobuf, onnx and the file system each raise their own
        raise ModelError(f"`{source}` cannot be examined layer by layer: {err}") from err
    known = {value.name: value for value in typed.graph.value_info if _is_tensor(value)}
    already = {value.name for value in model.graph.output}
    layers = []
    for node in model.graph.node:
        exposed = [name for name in node.output if name in known or name in already]
        layers.append(Layer(node.name or node.output[0], node.op_type, tuple(exposed)))
        model.graph.output.extend(known[name] for name in exposed if name not in already)
    save(model, target)
    return layers


def _is_tensor(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return bool(tensor.elem_type) and tensor.HasField("shape")
