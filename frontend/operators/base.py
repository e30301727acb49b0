"""What a converter is given: one ONNX node, with its inputs already converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from tvm import relax, te, tirx

from relaxc.frontend.element_types import carried
from relaxc.frontend.shape_values import Element, ShapeValue

# Beyond any memory, and far enough from the limit of int64 for sums and products of sizes.
MAX_ELEMENTS = 1 << 40


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
        types: ONNX element types of the inputs; 0 where absent or unknown.
        output_types: ONNX element types of the outputs; 0 where unknown.
    """

    bb: relax.BlockBuilder
    node: onnx.NodeProto
    attrs: dict[str, Any]
    inputs: list[relax.Expr | None]
    shapes: list[ShapeValue | None]
    opset: int
    types: list[int] = field(default_factory=list)
    output_types: list[int] = field(default_factory=list)

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

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def integers(self, index: int, name: str) -> list[int] | None:
        """Axes and the like: an input of known numbers, else the attribute of older opsets.

        Raises:
            ValueError: the input is there but not known at compile time.
        """
        if not self.has(index):
            listed = self.attrs.get(name)
            return None if listed is None else [int(v) for v in listed]
        known = self.static(index)
        if known is None:
            raise ValueError(f"`{name}` is computed from data, which is not supported")
        return known

    def sizes(self, index: int) -> list[Element]:
        """The elements of an input that holds sizes (never negative), known or not.

        What is computed from data becomes a fresh symbol per element, bound when the model runs.
        """
        known = self.elements(index)
        return runtime_sizes(self.bb, self.input(index)) if known is None else known

    def emit_te(self, func: Callable[..., Any], *args: Any, name: str = "") -> relax.Expr:
        """Emit a loop nest written in TVM's tensor expressions, named after the operator."""
        hint = name or self.node.op_type.lower()
        return self.bb.emit_te(func, *args, primfunc_name_hint=hint)


def runtime_sizes(bb: relax.BlockBuilder, vector: relax.Expr) -> list[Element]:
    """Fresh symbols bound to the elements of an integer vector; they must not be negative."""
    shape = dims(vector)
    if len(shape) > 1 or not all(isinstance(d, tirx.IntImm) for d in shape):
        raise ValueError("sizes computed from data must come in a known number")
    if not shape:
        vector = bb.emit(relax.op.reshape(vector, [1]))
    if vector.ty.dtype.dtype != "int64":
        vector = bb.emit(relax.op.astype(vector, "int64"))
    count = int(shape[0]) if shape else 1
    if count == 0:
        return []
    vector = bb.emit_te(_possible, vector, primfunc_name_hint="possible_sizes")
    symbols = [tirx.Var(f"{vector.name}_{i}", "int64") for i in range(count)]
    # Not `tensor_to_shape`, which TVM (0.27) lowers to symbols of its own; FuseTIR drops ours then.
    shape_type = relax.ShapeType(ndim=count)
    call = relax.op.call_pure_packed("vm.builtin.tensor_to_shape", vector, ty_args=[shape_type])
    bb.match_cast(bb.emit(call), relax.ShapeType(symbols))
    return list(symbols)


def _possible(sizes: te.Tensor) -> te.Tensor:
    """The sizes; -1 and ones, which no memory is found for, where they are impossible.

    TVM's runtime counts the bits of a tensor in 64 bits, whatever overflows: of sizes whose product
    is too large, or of a negative one that is large itself.
    """
    count = int(sizes.shape[0])

    def element(i: Any) -> Any:
        total: Any = tirx.const(1.0, "float64")
        least: Any = tirx.IntImm("int64", 0)
        for k in range(count):
            least = tirx.min(least, sizes[k])
            total = total * tirx.max(sizes[k], tirx.IntImm("int64", 1)).astype("float64")
        refused = tirx.Select(i == 0, tirx.IntImm("int64", -1), tirx.IntImm("int64", 1))
        return tirx.Select(tirx.any(total > float(1 << 50), least < 0), refused, sizes[i])

    return te.compute((count,), element, name="possible")


Converter = Callable[[NodeContext], relax.Expr]


def operator_name(node: onnx.NodeProto) -> str:
    """The operator; of a domain other than ONNX's own, as `domain::Operator`."""
    if node.domain in ("", "ai.onnx"):
        return str(node.op_type)
    return f"{node.domain}::{node.op_type}"


def constant(array: np.ndarray) -> relax.Expr:
    """A Relax constant; NumPy's `bool_`, narrow types and non-contiguous arrays included."""
    array = carried(np.asarray(array))
    return relax.const(np.ascontiguousarray(array).reshape(array.shape), array.dtype.name)


def dtype(value: relax.Expr) -> str:
    """The Relax dtype of a tensor."""
    return str(value.ty.dtype.dtype)


def dims(value: relax.Expr) -> list[Element]:
    """The dimensions of a tensor of known rank."""
    if not isinstance(value.ty.shape, relax.ShapeExpr):
        raise ValueError("the shape of the data is not known at compile time")
    return list(value.ty.shape.values)
