"""Nodes that are written back as they were: what Relax says with loops, ONNX says in a word.

An LSTM, a resize or a scatter is a function of its own in Relax, which has no counterpart. Where
nothing of the node has changed since import, the node itself is written, on what its inputs are
called now; recurrent layers also with other weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper
from tvm import relax
from tvm.ir import GenericConst

from relaxc.frontend.convert import node_name
from relaxc.frontend.export.graph import Graph
from relaxc.frontend.export.recurrent import recurrent_inputs
from relaxc.frontend.export.site import CannotExport
from relaxc.frontend.load import OnnxModel

# Newer versions of these say more; what older ones said still means the same.
_GROWN = frozenset({"GRU", "LSTM", "RNN", "Pad", "Resize", "ScatterElements", "ScatterND"})
# One of several bindings of a node, or a check of its shapes.
_PART = re.compile(r"(_broadcasts)?(\.\d+)?$")
_WHOLE = frozenset({onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL})


class OriginalNodes:
    """The nodes of the imported graph.

    Args:
        source: the graph after it was cleaned up, as it was converted.
        before: the bindings of the module before it was changed.
    """

    def __init__(self, source: OnnxModel, before: Iterable[relax.Binding]) -> None:
        graph = source.proto.graph
        self._opset = {e.domain: int(e.version) for e in source.proto.opset_import}
        self._nodes = {node_name(node): node for node in graph.node}
        self._producers = {
            name: (node, k) for node in graph.node for k, name in enumerate(node.output) if name
        }
        self._outputs = {v.name for v in graph.output} & set(self._producers)
        self._arrays = {t.name: t for t in graph.initializer}
        self._weights = source.weights
        self._inputs = {value.name for value in graph.input} - set(source.weights)
        self._types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
        self._before: dict[str, list[GenericConst]] = {}
        for binding in before:
            name = self.owner(str(binding.var.name))
            if name is not None:
                self._before.setdefault(name, []).extend(_constants(binding.value))

    def owner(self, binding: str) -> str | None:
        """The node that a binding belongs to: its own name, or what that begins with."""
        if binding in self._nodes:
            return binding
        if binding in self._outputs:  # the binding of a result may have the result's name
            return node_name(self._producers[binding][0])
        stem = _PART.sub("", binding)
        return stem if stem in self._nodes else None

    def write(
        self,
        name: str,
        bindings: Sequence[relax.Binding],
        graph: Graph,
        find: Callable[[str, int], str | None],
        opset: int,
    ) -> dict[int, str]:
        """Write a node; the names of its results, by position.

        Args:
            name: of the node.
            bindings: what it is now.
            graph: receives it.
            find: from a node's name and the position of a result to what it is called now.
            opset: of the graph.

        Raises:
            CannotExport: the node was changed, or what it reads is gone.
        """
        node = self._nodes[name]
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise CannotExport("it has branches or a loop")
        self._require_version(node, opset)
        arrays = {} if self._is_unchanged(node, bindings) else recurrent_inputs(node, bindings)
        inputs = [""] * max(len(node.input), *(position + 1 for position in arrays), 0)
        for position, value in enumerate(node.input):
            if value and position not in arrays:
                inputs[position] = self._value(value, graph, find, opset)
        for position, array in arrays.items():
            inputs[position] = graph.constant(array, f"{name}.input{position}")
        return self._copy(node, inputs, graph, arrays[2].shape[-1] if arrays else None)

    def positions(
        self, name: str, bindings: Sequence[relax.Binding], outputs: Mapping[int, str]
    ) -> dict[relax.Var, str]:
        """Which of a node's bindings are its results, and what they are called.

        Raises:
            CannotExport: that cannot be told.
        """
        own = {str(n): k for k, n in enumerate(self._nodes[name].output) if n in self._outputs}
        found = [b for b in bindings if str(b.var.name) in (name, *own)]
        if len(found) == 1 and len(outputs) == 1:
            return {found[0].var: next(iter(outputs.values()))}
        result: dict[relax.Var, str] = {}
        for binding in found:
            value = binding.value
            index = own.get(str(binding.var.name))
            if index is None and isinstance(value, relax.TupleGetItem):
                index = int(value.index)
            if index is None or index not in outputs:
                raise CannotExport("it has several results")
            result[binding.var] = outputs[index]
        return result

    def _is_unchanged(self, node: onnx.NodeProto, bindings: Sequence[relax.Binding]) -> bool:
        now = [c for binding in bindings for c in _constants(binding.value)]
        then = self._before.get(node_name(node), [])
        return len(now) == len(then) and all(map(_are_equal, now, then))

    def _require_version(self, node: onnx.NodeProto, opset: int) -> None:
        then = self._opset.get(node.domain, 1)
        if node.domain or node.op_type in _GROWN or then == opset:
            return
        versions = {
            onnx.defs.get_schema(node.op_type, version).since_version for version in (then, opset)
        }
        if len(versions) > 1:
            raise CannotExport(f"`{node.op_type}` is another one in opset {opset}")

    def _copy(
        self, node: onnx.NodeProto, inputs: Sequence[str], graph: Graph, units: int | None = None
    ) -> dict[int, str]:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for attribute in copy.attribute:
            if attribute.name == "hidden_size" and units is not None:
                attribute.i = units
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.name = node_name(node)
        names = {k: graph.value(output) for k, output in enumerate(node.output) if output}
        copy.output.extend(names.get(k, "") for k in range(len(node.output)))
        graph.nodes.append(copy)
        return names

    def _value(
        self, name: str, graph: Graph, find: Callable[[str, int], str | None], opset: int
    ) -> str:
        """What a value of the imported graph is called now."""
        if name in self._inputs:
            return name
        if name in self._weights:
            return graph.constant(np.asarray(self._weights[name]), name)
        if name in self._arrays:
            return graph.constant(numpy_helper.to_array(self._arrays[name]), name)
        node, position = self._producers[name]
        found = find(node_name(node), position)
        if found is not None:
            return found
        # Shapes are not tensors in Relax. Numbers that are no weights come from their nodes again.
        if self._types.get(name) not in _WHOLE:
            raise CannotExport(f"its input `{name}` is gone")
        self._require_version(node, opset)
        inputs = [self._value(value, graph, find, opset) if value else "" for value in node.input]
        return self._copy(node, inputs, graph)[position]


def _constants(value: relax.Expr) -> list[GenericConst]:
    found: list[GenericConst] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, GenericConst):
            found.append(expr)

    relax.analysis.post_order_visit(value, visit)
    return found


def _are_equal(a: GenericConst, b: GenericConst) -> bool:
    if a.same_as(b):
        return True
    left, right = (np.asarray(c.value.numpy()) for c in (a, b))
    return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=True)
