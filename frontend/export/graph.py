"""An ONNX graph as it grows: nodes, initializers, and names that are taken once only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Graph:
    """Nodes and initializers in order.

    Attributes:
        nodes: of the graph.
        arrays: initializers by name.
        opset: whose operators it has.
    """

    # The first version whose quantized weights may have four bits.
    FOUR_BITS: ClassVar[int] = 21
    # The first version with float8.
    FLOAT8: ClassVar[int] = 19

    def __init__(self, taken: Iterable[str], opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._values = set(taken)
        self._node_names: set[str] = set()
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def value(self, hint: str) -> str:
        """A name for a value that nothing else has."""
        return _unused(hint, self._values)

    def constant(self, array: np.ndarray, hint: str) -> str:
        """The name of an initializer; small ones that are equal share one."""
        key = array.dtype.str, array.shape, array.tobytes() if array.size <= 16 else b""
        if array.size <= 16 and key in self._small:
            return self._small[key]
        name = self.value(hint)
        self.arrays[name] = array
        if array.size <= 16:
            self._small[key] = name
        return name

    def node(
        self, op_type: str, inputs: Sequence[str], hint: str, outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """Append a node; the names of its results."""
        names = [self.value(hint if i == 0 else f"{hint}:{i}") for i in range(outputs)]
        self.add(op_type, inputs, names, hint, **attributes)
        return names

    def add(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        hint: str,
        **attributes: Any,
    ) -> None:
        """Append a node whose results have names already."""
        name = _unused(hint, self._node_names)
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name, **attributes))

    def drop_unread(self, outputs: Iterable[str]) -> None:
        """Leave out nodes whose results nobody reads."""
        read = set(outputs)
        kept = []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                read.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]

    def initializers(self) -> list[onnx.TensorProto]:
        """All of them that a node reads."""
        read = {name for node in self.nodes for name in node.input}
        return [numpy_helper.from_array(a, n) for n, a in self.arrays.items() if n in read]


def _unused(hint: str, taken: set[str]) -> str:
    name, count = hint, 0
    while name in taken:
        count += 1
        name = f"{hint}_{count}"
    taken.add(name)
    return name
