"""What a converter is given: one ONNX node, with its inputs already converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
from tvm import relax, tirx

from relaxc.frontend.shape_values import Element, ShapeValue


@dataclass(frozen=True)
class NodeContext:
    """One ONNX node in the middle of its conversion.

    Attributes:
        bb: builder of the function that is being written.
        node: the node.
        attrs: its attributes as Python values; graphs and tensors as protobuf messages.
        inputs: the inputs as Relax expressions; None where an optional input is absent.
        shapes: the inputs as shape arithmetic, where they are that; else None.
        opset: version of the default operator set.
    """

    bb: relax.BlockBuilder
    node: onnx.NodeProto
    attrs: dict[str, Any]
    inputs: list[relax.Expr | None]
    shapes: list[ShapeValue | None]
    opset: int

    def input(self, index: int) -> relax.Expr:
        """A required input."""
        value = self.inputs[index]
        if value is None:
            raise ValueError(f"input {index} is required")
        return value

    def has(self, index: int) -> bool:
        """Whether an optional input is present."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def elements(self, index: int) -> list[Element] | None:
        """The elements of an integer input as expressions of the dimensions, when known."""
        shape = self.shapes[index] if index < len(self.shapes) else None
        return None if shape is None else list(shape.elements.flat)

    def static(self, index: int) -> list[int] | None:
        """The elements of an integer input as numbers, when known."""
        elements = self.elements(index)
        if elements is None or not all(isinstance(e, tirx.IntImm) for e in elements):
            return None
        return [int(e) for e in elements]


Converter = Callable[[NodeContext], relax.Expr]


def dims(value: relax.Expr) -> list[Element]:
    """The dimensions of a tensor of known rank."""
    if not isinstance(value.ty.shape, relax.ShapeExpr):
        raise ValueError("the shape of the data is not known at compile time")
    return list(value.ty.shape.values)
