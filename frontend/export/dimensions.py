"""Symbolic dimensions as ONNX values: what `Shape` says of the inputs, and arithmetic on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, tirx

from relaxc.frontend.export.graph import Graph

_ARITHMETIC: dict[type, str] = {
    tirx.Add: "Add",
    tirx.Sub: "Sub",
    tirx.Mul: "Mul",
    tirx.Max: "Max",
    tirx.Min: "Min",
}


class UnknownDimension(Exception):
    """A dimension that nothing in the graph tells."""


class Dimensions:
    """Writes the nodes that compute dimensions, each once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._where: dict[tirx.Var, tuple[str, int]] = {}
        self._known: dict[Any, str] = {}

    def learn(self, name: str, ty: relax.Type) -> None:
        """A value of this type is there: its shape tells symbols."""
        shape = getattr(ty, "shape", None)
        if isinstance(shape, relax.ShapeExpr):
            for axis, dim in enumerate(shape.values):
                if isinstance(dim, tirx.Var):
                    self._where.setdefault(dim, (name, axis))

    def vector(self, dims: Sequence[Any], hint: str) -> str:
        """Some dimensions as a vector of int64."""
        if all(isinstance(dim, int | tirx.IntImm) for dim in dims):
            return self._constant([int(dim) for dim in dims], hint)
        parts = [self._element(dim, hint) for dim in dims]
        return parts[0] if len(parts) == 1 else self._node("Concat", parts, hint, axis=0)

    def scalar(self, dim: Any, hint: str) -> str:
        """A dimension as a tensor without dimensions."""
        if isinstance(dim, int | tirx.IntImm):
            return self._graph.constant(np.array(int(dim), np.int64), hint)
        return self._node("Squeeze", [self._element(dim, hint), self._constant([0], hint)], hint)

    def _element(self, dim: Any, hint: str) -> str:
        """One dimension as a vector of one number."""
        if isinstance(dim, int | tirx.IntImm):
            return self._constant([int(dim)], hint)
        # Structurally equal expressions print alike; symbols are told apart by identity.
        key = dim if isinstance(dim, tirx.Var) else str(dim)
        if key not in self._known:
            self._known[key] = self._computed(dim, hint)
        return self._known[key]

    def _computed(self, dim: Any, hint: str) -> str:
        if isinstance(dim, tirx.Var):
            if dim not in self._where:
                raise UnknownDimension(f"dimension `{dim.name}` is told by no value before it")
            value, axis = self._where[dim]
            return self._node("Shape", [value], f"{value}.{dim.name}", start=axis, end=axis + 1)
        if isinstance(dim, tirx.Cast):
            return self._element(dim.value, hint)
        if isinstance(dim, tirx.FloorMod):
            parts = [self._element(part, hint) for part in (dim.a, dim.b)]
            return self._node("Mod", parts, hint)
        if isinstance(dim, tirx.FloorDiv | tirx.Div):
            parts = [self._element(part, hint) for part in (dim.a, dim.b)]
            if isinstance(dim, tirx.Div):
                return self._node("Div", parts, hint)
            # ONNX divides towards zero, floor division downwards: take the remainder off first.
            rest = self._node("Mod", parts, hint)
            return self._node("Div", [self._node("Sub", [parts[0], rest], hint), parts[1]], hint)
        op_type = _ARITHMETIC.get(type(dim))
        if op_type is None:
            raise UnknownDimension(f"dimension `{dim}` has no counterpart in ONNX")
        return self._node(op_type, [self._element(p, hint) for p in (dim.a, dim.b)], hint)

    def _constant(self, values: list[int], hint: str) -> str:
        return self._graph.constant(np.array(values, np.int64), hint)

    def _node(self, op_type: str, inputs: list[str], hint: str, **attributes: Any) -> str:
        return self._graph.node(op_type, inputs, hint, **attributes)[0]
