"""Divide a graph between the host and compiled pieces.

Nodes get levels: the tensors of a level are computed by one piece, from what the host has computed
by then; the host's nodes of that level follow it. Bodies of loops and branches that the host runs
are divided in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TypeProto, helper, numpy_helper

from relaxc.errors import UnsupportedOpError
from relaxc.frontend.convert import node_name
from relaxc.frontend.element_types import dtype_name
from relaxc.frontend.host import loops
from relaxc.frontend.host import types as ty
from relaxc.frontend.host.operators import ALWAYS, ON_DEMAND, ON_HOST
from relaxc.frontend.load import OnnxModel
from relaxc.frontend.operators.base import operator_name
from relaxc.frontend.simplify import eliminate_dead_nodes, name_dimensions, real_inputs

Step = dict[str, Any]


@dataclass
class Program:
    """A model as steps for the host.

    Attributes:
        graph: steps and constants, in the form that the manifest has them.
        pieces: what is compiled.
        constants: arrays that the host needs; strings among them.
        types: of the values of the main graph.
    """

    graph: Step
    pieces: list[OnnxModel]
    constants: list[np.ndarray]
    types: ty.Types = field(default_factory=dict)


def needs_host(model: OnnxModel) -> bool:
    """Whether a model has anything that compiled code cannot do alone."""
    graph = model.proto.graph
    if any(ty.holds_objects(v.type) for v in (*real_inputs(model), *graph.output)):
        return True
    return _Divider(model).is_for_host(graph)


def divide(model: OnnxModel) -> Program:
    """Divide a simplified model.

    Raises:
        UnsupportedOpError: a node can run neither on the host nor in a piece.
    """
    divider = _Divider(model)
    graph = divider.divide(model.proto.graph, {}, {})
    return Program(graph, divider.pieces, divider.constants, divider.main_types)


class _Divider:
    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.opsets = list(model.proto.opset_import)
        self.pieces: list[OnnxModel] = []
        self.constants: list[np.ndarray] = []
        self.main_types: ty.Types = {}

    def is_for_host(self, graph: onnx.GraphProto) -> bool:
        """Whether a graph holds a node that only the host can run."""
        kinds = {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}
        constants = ty.small_constants(graph)
        for name, tensor in constants.items():
            kinds[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        return any(self._is_host(node, kinds, constants) for node in graph.node)

    def _is_host(
        self,
        node: onnx.NodeProto,
        kinds: Mapping[str, TypeProto],
        known: Mapping[str, onnx.TensorProto],
    ) -> bool:
        name = operator_name(node)
        if name in ALWAYS or name in ("Loop", "Scan"):
            return True
        if any(ty.holds_objects(kinds.get(n)) for n in (*node.input, *node.output) if n):
            return True
        return name == "If" and not self._is_plain_if(node, kinds, known)

    def _is_plain_if(
        self,
        node: onnx.NodeProto,
        kinds: Mapping[str, TypeProto],
        known: Mapping[str, onnx.TensorProto],
    ) -> bool:
        """Whether an If is of tensors only, of the same shape in both branches."""
        results = []
        for body in ty.bodies(node):
            inner = ty.infer(body, kinds, known, self.opsets)
            if any(self._is_host(n, {**kinds, **inner}, known) for n in body.node):
                return False
            results.append([{**kinds, **inner}.get(v.name, TypeProto()) for v in body.output])
        for one, other in zip(*results):
            if not (ty.is_tensor(one) and ty.has_rank(one) and one == other):
                return False
            if any(not (d.dim_param or d.HasField("dim_value")) for d in ty.dimensions(one)):
                return False
        return True

    def _constants(
        self, graph: onnx.GraphProto, outer: Mapping[str, Any]
    ) -> dict[str, onnx.TensorProto | np.ndarray]:
        """Constants that a graph sees: tensors where small, arrays where large."""
        found: dict[str, Any] = {**outer, **ty.small_constants(graph)}
        if graph is self.model.proto.graph:
            found |= self.model.weights
        return found

    def divide(
        self,
        graph: onnx.GraphProto,
        outer: Mapping[str, TypeProto],
        outer_constants: Mapping[str, Any],
    ) -> Step:
        """Divide a graph and the bodies of its nodes into steps."""
        known = self._constants(graph, outer_constants)
        small = _small(known)
        inner = ty.infer(graph, outer, small, self.opsets)
        kinds = {**outer, **inner}
        nodes = [n for n in graph.node if operator_name(n) != "Constant"]
        on_host: list[bool] = []
        steps: dict[int, Step] = {}
        for index, node in enumerate(nodes):
            is_host = self._is_host(node, kinds, small)
            on_host.append(is_host)
            if is_host:
                steps[index], results = self._host_step(node, kinds, known)
                if self._learn(graph, node, results, kinds):
                    kinds |= ty.infer(graph, outer, small, self.opsets)
                    kinds |= {n: k for n, k in results.items() if ty.holds_objects(k)}
        on_host = self._without_unknown_ranks(nodes, on_host, steps, kinds, known)
        if graph is self.model.proto.graph:
            self.main_types = kinds
        ordered = self._ordered(graph, nodes, on_host, steps, kinds, known)
        used = {name for step in ordered for name in step["inputs"]}
        used |= {value.name for value in graph.output}
        for node, is_host in zip(nodes, on_host):
            if is_host:
                used |= ty.reads(node)
        own = set(self._constants(graph, {}))
        return {
            "inputs": [v.name for v in graph.input if v.name not in known],
            "outputs": [value.name for value in graph.output],
            "constants": {n: self._constant(known[n]) for n in sorted(used & own)},
            "steps": ordered,
        }

    def _learn(
        self,
        graph: onnx.GraphProto,
        node: onnx.NodeProto,
        results: Mapping[str, TypeProto],
        kinds: dict[str, TypeProto],
    ) -> bool:
        """Note types that dividing a node's bodies revealed; whether inference may gain by it."""
        named = {value.name: value for value in (*graph.value_info, *graph.output)}
        news = False
        for name, kind in results.items():
            if kind.WhichOneof("value") is None or kinds.get(name) == kind:
                continue
            kinds[name] = kind
            if name in named:
                named[name].type.CopyFrom(kind)
            else:
                graph.value_info.append(helper.make_value_info(name, kind))
            news = True
        return news

    def _without_unknown_ranks(
        self,
        nodes: list[onnx.NodeProto],
        on_host: list[bool],
        steps: dict[int, Step],
        kinds: Mapping[str, TypeProto],
        known: Mapping[str, Any],
    ) -> list[bool]:
        """Let the host run nodes that read what it computed of unknown rank."""
        loose: set[str] = set()
        result = []
        for index, (node, is_host) in enumerate(zip(nodes, on_host)):
            if not is_host and loose & ty.reads(node):
                if operator_name(node) not in ON_DEMAND:
                    name = min(loose & ty.reads(node))
                    raise UnsupportedOpError(
                        f"ONNX op `{node.op_type}` (node `{node_name(node)}`) reads `{name}`, "
                        "whose rank is not known before the model runs, which is not supported"
                    )
                is_host = True
                steps[index], _ = self._host_step(node, kinds, known)
            if is_host:
                for name in node.output:
                    kind = kinds.get(name, TypeProto())
                    is_typed = ty.is_tensor(kind) and ty.has_rank(kind)
                    if name and not is_typed and not ty.holds_objects(kind):
                        loose.add(name)
            result.append(is_host)
        return result

    def _ordered(
        self,
        graph: onnx.GraphProto,
        nodes: list[onnx.NodeProto],
        on_host: list[bool],
        steps: dict[int, Step],
        kinds: Mapping[str, TypeProto],
        known: Mapping[str, Any],
    ) -> list[Step]:
        """Pieces and the host's steps, level by level."""
        level_of: dict[str, int] = {}
        from_host: set[str] = set()
        levels: list[int] = []
        for node, is_host in zip(nodes, on_host):
            level = 0
            for name in ty.reads(node):
                gap = 0 if is_host or name not in from_host else 1
                level = max(level, level_of.get(name, 0) + gap)
            levels.append(level)
            for name in node.output:
                level_of[name] = level
                if is_host:
                    from_host.add(name)
        results = {value.name for value in graph.output}
        ordered: list[Step] = []
        for level in range(max(levels, default=-1) + 1):
            here = [i for i, at in enumerate(levels) if at == level]
            members = [i for i in here if not on_host[i]]
            if members:
                inside = set(members)
                wanted = results.union(
                    *(ty.reads(n) for i, n in enumerate(nodes) if i not in inside)
                )
                chosen = [nodes[i] for i in members]
                ordered.append(self._piece(chosen, wanted, kinds, known))
            ordered += [steps[i] for i in here if on_host[i]]
        return ordered

    def _piece(
        self,
        nodes: list[onnx.NodeProto],
        wanted: set[str],
        kinds: Mapping[str, TypeProto],
        known: Mapping[str, Any],
    ) -> Step:
        """A part of the graph as a model of its own."""
        made = [name for node in nodes for name in node.output if name]
        read = set().union(*(ty.reads(node) for node in nodes)) - set(made)
        inputs = sorted(name for name in read if name not in known)
        outputs = [name for name in made if name in wanted]
        graph = onnx.GraphProto(name=f"piece{len(self.pieces)}")
        graph.node.extend(nodes)
        for name in inputs:
            if not ty.is_tensor(kinds.get(name)) or not ty.has_rank(kinds[name]):
                reader = next(node for node in nodes if name in ty.reads(node))
                raise UnsupportedOpError(
                    f"ONNX op `{reader.op_type}` (node `{node_name(reader)}`) reads `{name}`, "
                    "whose type is not known before the model runs, which is not supported"
                )
            graph.input.append(helper.make_value_info(name, kinds[name]))
        for name in made:
            if ty.is_tensor(kinds.get(name)):
                where = graph.output if name in outputs else graph.value_info
                where.append(helper.make_value_info(name, kinds[name]))
            elif name in outputs:
                graph.output.append(onnx.ValueInfoProto(name=name))
        order = {name: position for position, name in enumerate(outputs)}
        ordered = sorted(graph.output, key=lambda value: order[value.name])
        copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in ordered]
        del graph.output[:]
        graph.output.extend(copies)
        weights: dict[str, np.ndarray] = {}
        for name in sorted(read & set(known)):
            value = known[name]
            if isinstance(value, onnx.TensorProto):
                graph.initializer.append(value)
            else:
                weights[name] = value
                element = helper.np_dtype_to_tensor_dtype(value.dtype)
                graph.input.append(helper.make_tensor_value_info(name, element, value.shape))
        proto = helper.make_model(graph, opset_imports=self.opsets, ir_version=10)
        piece = OnnxModel(proto, weights, self.model.sha256, f"{self.model.name}:{graph.name}")
        name_dimensions(piece)
        eliminate_dead_nodes(piece)
        self.pieces.append(piece)
        return {
            "op": "piece",
            "name": graph.name,
            "piece": len(self.pieces) - 1,
            "inputs": inputs,
            "outputs": outputs,
        }

    def _constant(self, value: onnx.TensorProto | np.ndarray) -> int:
        """The number of a constant for the host."""
        is_small = isinstance(value, onnx.TensorProto)
        self.constants.append(numpy_helper.to_array(value) if is_small else value)
        return len(self.constants) - 1

    def _host_step(
        self,
        node: onnx.NodeProto,
        kinds: Mapping[str, TypeProto],
        known: Mapping[str, Any],
    ) -> tuple[Step, ty.Types]:
        """A step of the host, and the types of its results where they are known."""
        name = operator_name(node)
        if name not in ON_HOST:
            what = "containers" if _has_containers(node, kinds) else "strings"
            raise UnsupportedOpError(
                f"ONNX op `{node.op_type}` (node `{node_name(node)}`) of {what} is not supported"
            )
        step: Step = {
            "op": name,
            "name": node_name(node),
            "inputs": list(node.input),
            "outputs": list(node.output),
        }
        attrs = {a.name: a for a in node.attribute}
        results: ty.Types = {}
        if name == "If":
            for key in ("then_branch", "else_branch"):
                step[key] = self.divide(attrs.pop(key).g, kinds, known)
            results = loops.branch_types(node, kinds, _small(known), self.opsets)
        elif name in ("Loop", "Scan"):
            body = attrs.pop("body").g
            is_loop = name == "Loop"
            settled, inner = loops.settle(node, body, kinds, _small(known), self.opsets)
            step["body"] = self.divide(settled, kinds, known)
            states = len(node.input) - (
                2 if is_loop else helper.get_attribute_value(attrs["num_scan_inputs"])
            )
            step["states"] = states
            finals = [inner.get(v.name, TypeProto()) for v in settled.output][is_loop:]
            step["stacked"] = [loops.stacked(kind) for kind in finals[states:]]
            if is_loop:
                step["shapes"] = [[1] * len(ty.dimensions(v.type)) for v in settled.input[:2]]
            for output, kind in zip(node.output[:states], finals):
                if output:
                    results[output] = kind
            axes = list(attrs["scan_output_axes"].ints) if "scan_output_axes" in attrs else []
            for k, (output, kind) in enumerate(zip(node.output[states:], finals[states:])):
                if output:
                    results[output] = loops.stack(kind, axes[k] if axes else 0)
        step["attributes"] = {
            # A type says nothing that a run needs.
            key: self._attribute(attr)
            for key, attr in attrs.items()
            if attr.type != onnx.AttributeProto.TYPE_PROTO
        }
        return step, results

    def _attribute(self, attr: onnx.AttributeProto) -> Any:
        """An attribute as JSON: element types by name, tensors as numbers of constants."""
        value = helper.get_attribute_value(attr)
        if isinstance(value, onnx.TensorProto):
            return {"constant": self._constant(value)}
        if attr.name in ("to", "dtype"):
            return dtype_name(value)
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, int | float):
            return value
        return [item.decode() if isinstance(item, bytes) else item for item in value]


def _has_containers(node: onnx.NodeProto, kinds: Mapping[str, TypeProto]) -> bool:
    listed = [kinds.get(name, TypeProto()) for name in (*node.input, *node.output)]
    return any(k.WhichOneof("value") not in (None, "tensor_type") for k in listed)


def _small(known: Mapping[str, Any]) -> dict[str, onnx.TensorProto]:
    """The constants that inference may read."""
    return {n: tensor for n, tensor in known.items() if isinstance(tensor, onnx.TensorProto)}
