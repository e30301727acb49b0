"""What a translator is told of an operator, and how it writes nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.frontend.export.dimensions import Dimensions
from relaxc.frontend.export.graph import Graph


class CannotExport(Exception):
    """An operator, or this use of it, has no counterpart; says why."""


@dataclass(frozen=True)
class Site:
    """One binding to translate.

    Attributes:
        name: of the binding, which is that of the ONNX node it came from.
        call: the operator.
        graph: receives nodes.
        dimensions: makes values of symbolic shapes.
        names: Relax variable -> the name of its value.
        constants: those that have a name already.
        producers: Relax variable -> what it is bound to.
    """

    name: str
    call: relax.Call
    graph: Graph
    dimensions: Dimensions
    names: dict[relax.Var, str]
    constants: dict[GenericConst, str]
    producers: Mapping[relax.Var, relax.Expr]

    @property
    def attrs(self) -> Any:
        """Of the operator."""
        return self.call.attrs

    def input(self, index: int, role: str = "") -> str:
        """The name of a tensor argument; constants become initializers."""
        return self.tensor(self.call.args[index], role)

    def tensor(self, expr: relax.Expr, role: str = "") -> str:
        """The name of a tensor."""
        if isinstance(expr, relax.Var):
            return self.names[expr]
        if not isinstance(expr, GenericConst):
            raise CannotExport(f"its argument is a {type(expr).__name__}")
        if expr not in self.constants:
            array = np.asarray(expr.value.numpy())
            suffix = role or f"constant{len(self.constants)}"
            self.constants[expr] = self.graph.constant(array, f"{self.name}.{suffix}")
        return self.constants[expr]

    def emit(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write a node with one result."""
        return self.graph.node(op_type, inputs, self.name, **attributes)[0]

    def integers(self, values: Sequence[int], role: str) -> str:
        """A constant vector of int64."""
        return self.graph.constant(np.array(values, np.int64), f"{self.name}.{role}")

    def scalar(self, value: float | int | bool, dtype: str, role: str) -> str:
        """A constant of no dimensions."""
        return self.graph.constant(np.array(value, dtype), f"{self.name}.{role}")

    def shape(self, dims: Sequence[Any], role: str = "shape") -> str:
        """Dimensions as a vector of int64."""
        return self.dimensions.vector(dims, f"{self.name}.{role}")


# Writes nodes, and gives the names of the results.
Translator = Callable[[Site], list[str]]


def dtype_of(expr: relax.Expr) -> str:
    """The element type of a tensor, as NumPy spells it."""
    return str(expr.ty.dtype.dtype)


def dims_of(expr: relax.Expr) -> list[Any]:
    """The dimensions of a tensor.

    Raises:
        CannotExport: they are not known.
    """
    shape = expr.ty.shape
    if not isinstance(shape, relax.ShapeExpr):
        raise CannotExport("its shape is not known")
    return list(shape.values)


def numbers(values: Any) -> list[int]:
    """Integers of an attribute or a tuple.

    Raises:
        CannotExport: some are not known before the model runs.
    """
    fields = getattr(values, "fields", values)
    try:
        return [int(value) for value in fields]
    except TypeError as err:
        raise CannotExport("it has symbolic attributes") from err
