"""From a Relax module back to ONNX.

Every binding becomes the node that it came from, as far as it is still that: operators are
translated one by one (operators/), and what has no counterpart is written as the node that was
imported, if nothing of it has changed (original.py). Inputs, outputs and nodes have the names of
the model; batch norms and the like are part of the weights by now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst

from relaxc.errors import ModelError
from relaxc.frontend.export.dimensions import Dimensions, UnknownDimension
from relaxc.frontend.export.graph import Graph
from relaxc.frontend.export.operators import TRANSLATORS
from relaxc.frontend.export.operators.layers import convolution
from relaxc.frontend.export.original import OriginalNodes
from relaxc.frontend.export.site import CannotExport, Site
from relaxc.frontend.importer import ImportedModel
from relaxc.frontend.simplify import opset


def to_onnx(
    imported: ImportedModel, before: IRModule, mod: IRModule, least_opset: int = 0
) -> onnx.ModelProto:
    """Write a module as an ONNX model, of the opset that the imported model had or was brought to.

    Args:
        imported: where it came from; has a source.
        before: the module before it was changed.
        mod: the module.
        least_opset: that says what weights are stored as, if the model's own is older.

    Raises:
        ModelError: a node has no counterpart in ONNX, by its name.
    """
    assert imported.source is not None
    if imported.narrow:
        name, kind = next(iter(imported.narrow.items()))
        raise ModelError(f"`{name}` is of type {kind}, which cannot be written as ONNX")
    if not all(isinstance(b, relax.DataflowBlock) for b in mod["main"].body.blocks):
        raise ModelError("a model with branches or loops cannot be written as ONNX")
    return _Export(imported, before, mod, least_opset).model()


class _Export:
    def __init__(
        self, imported: ImportedModel, before: IRModule, mod: IRModule, least_opset: int
    ) -> None:
        assert imported.source is not None
        self._imported = imported
        self._main = mod["main"]
        self._bindings = [b for block in self._main.body.blocks for b in block.bindings]
        self._opset = max(opset(imported.source.proto), least_opset)
        self._graph = Graph((*imported.inputs, *imported.outputs), self._opset)
        self._dimensions = Dimensions(self._graph)
        self._names: dict[relax.Var, str] = {}
        self._constants: dict[GenericConst, str] = {}
        self._producers = {b.var: b.value for b in self._bindings}
        self._tuples: dict[relax.Var, Sequence[str]] = {}
        old = [b for block in before["main"].body.blocks for b in block.bindings]
        self._original = OriginalNodes(imported.source, old)
        self._members: dict[str, list[relax.Binding]] = {}
        for binding in self._bindings:
            owner = self._original.owner(str(binding.var.name))
            if owner is not None:
                self._members.setdefault(owner, []).append(binding)
        self._users: dict[relax.Var, list[relax.Binding]] = {}
        for binding in self._bindings:
            for var in relax.analysis.free_vars(binding.value):
                self._users.setdefault(var, []).append(binding)
        self._returned = set(relax.analysis.free_vars(self._main.body.body))
        self._whole = {name for name, group in self._members.items() if self._is_opaque(group)}
        self._late = self._late_convolutions()
        self._done: set[str] = set()

    def model(self) -> onnx.ModelProto:
        for name, var in zip(self._imported.inputs, self._main.params, strict=True):
            self._names[var] = name
            self._dimensions.learn(name, var.ty)
        for binding in self._bindings:
            node = self._original.owner(str(binding.var.name)) or str(binding.var.name)
            try:
                self._binding(binding, node)
            except (CannotExport, UnknownDimension) as err:
                raise ModelError(
                    f"node `{node}` cannot be written as ONNX: {err}; leave the model as it is "
                    "there, or compile it instead"
                ) from err
        outputs = self._outputs()
        self._graph.drop_unread(self._imported.outputs)
        inputs = [_info(n, v.ty) for n, v in zip(self._imported.inputs, self._main.params)]
        graph = helper.make_graph(
            self._graph.nodes, self._imported.name, inputs, outputs, self._graph.initializers()
        )
        assert self._imported.source is not None
        imports = [
            helper.make_opsetid(entry.domain, entry.version if entry.domain else self._opset)
            for entry in self._imported.source.proto.opset_import
            if entry.domain in {node.domain for node in self._graph.nodes} | {""}
        ]
        model = helper.make_model(graph, opset_imports=imports, producer_name="relaxc")
        least = 10 if self._opset >= Graph.FOUR_BITS else 9 if self._opset >= Graph.FLOAT8 else 8
        model.ir_version = max(least, self._imported.source.proto.ir_version)
        return model

    def _is_opaque(self, group: Sequence[relax.Binding]) -> bool:
        """Whether a node became something that no operator of Relax says."""
        return any(
            isinstance(b.value, relax.Call)
            and _operator(b.value) not in TRANSLATORS
            and not _checks_indices(b.value)
            for b in group
        )

    def _late_convolutions(self) -> dict[relax.Var, relax.Binding]:
        """Sums that are convolutions with a bias: those are written with the sum."""
        found: dict[relax.Var, relax.Binding] = {}
        for binding in self._bindings:
            call = binding.value
            if not isinstance(call, relax.Call) or _operator(call) != "relax.add":
                continue
            for data, bias in (call.args, reversed(call.args)):
                conv = self._producers.get(data) if isinstance(data, relax.Var) else None
                if (
                    isinstance(conv, relax.Call)
                    and _operator(conv) in [f"relax.nn.conv{n}d" for n in (1, 2, 3)]
                    and data not in found
                    and self._original.owner(str(data.name)) not in self._whole
                    and len(self._users[data]) == 1
                    and data not in self._returned
                    and isinstance(bias, GenericConst)
                    and _is_per_channel(bias, data)
                ):
                    found[data] = binding
                    break
        return found

    def _binding(self, binding: relax.Binding, node: str) -> None:
        if node in self._whole:
            if node not in self._done:
                self._done.add(node)
                self._whole_node(node)
            return
        try:
            self._translated(binding)
        except CannotExport:
            if node not in self._members or node in self._done:
                raise
            # As it was imported, then, unless a part of it is written already.
            self._whole.add(node)
            self._whole_node(node)
        self._done.add(node)

    def _translated(self, binding: relax.Binding) -> None:
        var, value = binding.var, binding.value
        if isinstance(value, relax.Var):
            self._bind(var, self._names[value], binding)
        elif isinstance(value, GenericConst):
            self._bind(var, self._graph.constant(value.value.numpy(), str(var.name)), binding)
        elif isinstance(value, relax.Tuple):
            self._tuples[var] = [self._named(field, var) for field in value.fields]
        elif isinstance(value, relax.TupleGetItem):
            self._bind(var, self._tuples[value.tuple_value][value.index], binding)
        elif isinstance(value, relax.Call):
            self._call(binding, value)
        elif not isinstance(value, relax.ShapeExpr):
            raise CannotExport(f"it is a {type(value).__name__}")

    def _call(self, binding: relax.Binding, call: relax.Call) -> None:
        var = binding.var
        if _checks_indices(call):
            # ONNX's own operators refuse what is out of range.
            self._bind(var, self._named(call.args[1].fields[0], var), binding)
            return
        if var in self._late:
            return
        translate = TRANSLATORS.get(_operator(call))
        if translate is None:
            raise CannotExport(f"`{_operator(call)}` has no counterpart")
        late = next((c for c, s in self._late.items() if s is binding), None)
        if late is None:
            names = translate(self._site(str(var.name), call))
        else:
            bias = call.args[1] if call.args[0].same_as(late) else call.args[0]
            names = convolution(self._site(str(late.name), self._producers[late]), bias)
        if isinstance(call.ty, relax.TupleType):
            self._tuples[var] = names
        else:
            self._bind(var, names[0], binding)

    def _site(self, name: str, call: relax.Expr) -> Site:
        assert isinstance(call, relax.Call)
        return Site(
            name,
            call,
            self._graph,
            self._dimensions,
            self._names,
            self._constants,
            self._producers,
        )

    def _whole_node(self, node: str) -> None:
        """The imported node in the place of all its bindings."""
        group = self._members[node]
        read = {v for b in group for v in relax.analysis.free_vars(b.value)}

        def find(name: str, position: int) -> str | None:
            var = self._result(name, position)
            if var is None or var not in self._names:
                return None
            # A float of that name which the bindings do not read is another one by now.
            is_it = var in read or str(var.ty.dtype.dtype).startswith(("int", "bool"))
            return self._names[var] if is_it else None

        outputs = self._original.write(node, group, self._graph, find, self._opset)
        named = self._original.positions(node, group, outputs)
        for binding in group:
            readers = self._users.get(binding.var, [])
            # Equal tables of indices are computed once, for several nodes that are written whole.
            owners = {self._original.owner(str(r.var.name)) for r in readers}
            is_read = not owners <= {node, *self._whole} or binding.var in self._returned
            if binding.var in named:
                self._bind(binding.var, named[binding.var], binding)
            elif is_read:
                raise CannotExport("other nodes read a part of it")

    def _result(self, node: str, position: int) -> relax.Var | None:
        """A result of a node, if it is still there."""
        group = [b for b in self._members.get(node, []) if str(b.var.name) == node]
        for binding in group:
            is_part = isinstance(binding.value, relax.TupleGetItem)
            if (binding.value.index if is_part else 0) == position and (is_part or len(group) == 1):
                return binding.var
        return None

    def _bind(self, var: relax.Var, name: str, binding: relax.Binding) -> None:
        self._names[var] = name
        self._dimensions.learn(name, var.ty)
        if isinstance(binding, relax.MatchCast):
            self._dimensions.learn(name, binding.ty)

    def _named(self, expr: relax.Expr, var: relax.Var) -> str:
        if isinstance(expr, GenericConst):
            return self._graph.constant(np.asarray(expr.value.numpy()), str(var.name))
        return self._names[expr]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        """Results under the names of the model's outputs."""
        result = self._main.body.body
        if isinstance(result, relax.Var) and result in self._tuples:
            values = list(self._tuples[result])
        elif isinstance(result, relax.Tuple):
            values = [self._named(field, result) for field in result.fields]
        else:
            values = [self._named(result, result)]
        types = self._main.ret_ty
        fields = list(types.fields) if isinstance(types, relax.TupleType) else [types]
        for value, name in zip(values, self._imported.outputs, strict=True):
            self._rename(value, name, values)
        infos = [_info(n, ty) for n, ty in zip(self._imported.outputs, fields, strict=True)]
        assert self._imported.source is not None
        told = {v.name: v for v in self._imported.source.proto.graph.output}
        # Where Relax has lost the rank, ONNX had it.
        return [told[v.name] if not v.type.tensor_type.HasField("shape") else v for v in infos]

    def _rename(self, value: str, name: str, values: Sequence[str]) -> None:
        """Give a value the name of an output; what is an output twice, or no result, is copied."""
        makers = [node for node in self._graph.nodes if value in node.output]
        if not makers or list(values).count(value) > 1:
            self._graph.add("Identity", [value], [name], name)
            return
        for node in self._graph.nodes:
            for field in (node.input, node.output):
                for i, item in enumerate(field):
                    if item == value:
                        field[i] = name


def _operator(call: relax.Call) -> str:
    return str(call.op.name) if isinstance(call.op, tvm.ir.Op) else ""


def _checks_indices(call: relax.Call) -> bool:
    """Whether a call gives its first argument, or an error."""
    return _operator(call) == "relax.call_tir" and str(call.args[0].name_hint).startswith(
        "check_indices"
    )


def _is_per_channel(bias: GenericConst, conv: relax.Var) -> bool:
    """Whether a constant adds one number to each channel of axis 1."""
    if not isinstance(conv.ty.shape, relax.ShapeExpr):
        return False
    shape, ndim = [int(n) for n in bias.value.shape], conv.ty.ndim
    channels = conv.ty.shape.values[1]
    if not isinstance(channels, tirx.IntImm) or len(shape) > ndim:
        return False
    aligned = [1] * (ndim - len(shape)) + shape
    return all(n == (int(channels) if axis == 1 else 1) for axis, n in enumerate(aligned))


def _info(name: str, ty: Any) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(str(ty.dtype.dtype)))
    dims: list[int | str | None] | None = None
    if isinstance(ty.shape, relax.ShapeExpr):
        dims = [_dim(dim) for dim in ty.shape.values]
    return helper.make_tensor_value_info(name, kind, dims)


def _dim(dim: Any) -> int | str | None:
    if isinstance(dim, int | tirx.IntImm):
        return int(dim)
    return str(dim.name) if isinstance(dim, tirx.Var) else None
