"""Which channels of a module depend on one another, and so must be removed together.

Every axis of every tensor of `main` gets an array of channel numbers; operators pair them
(dependency_rules.py). Inputs, outputs and whatever an operator looks at as a whole stay. Two
rounds: how a reshape is to be read, heads or what a head holds, depends on what the operators
around it allow, which only the end of the first round tells.

A removed channel changes the result as if the weights that read it were zero, and in no other way:
that is what `contractions` are for, and what tests compare with.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.prune.channels import Axes, Channels
from relaxc.passes.prune.dependency_rules import RULES, Site, refuse
from relaxc.passes.prune.operands import shape_of, static_dim, tensor_operands
from relaxc.passes.prune.recurrent_links import recurrence
from relaxc.recurrent.described import described

# A weight where it is used: the variable that its operator binds, and which of the operands it is.
Use = tuple[relax.Var, int]


@dataclass(frozen=True)
class Group:
    """Channels of one kind: they appear along the same axes of the same weights.

    Attributes:
        name: of the first operator that makes them.
        channels: their numbers.
        width: indices of an axis that one channel takes: 64 for a head of 64.
        nodes: the ONNX nodes whose weights have them, in order.
        are_units: whether they are units of an LSTM whose kernel takes whole vectors of them.
    """

    name: str
    channels: tuple[int, ...]
    width: int
    nodes: tuple[str, ...]
    are_units: bool = False


@dataclass(frozen=True)
class Dependencies:
    """What can be removed from a module.

    Attributes:
        values: the axes of every variable; of tuples, one entry per field.
        weights: the axes of every constant, where it is used.
        contractions: (use, axis) of every axis of a weight that is summed over.
        groups: in the order of the module.
    """

    values: dict[relax.Var, tuple[Axes, ...]]
    weights: dict[Use, Axes]
    contractions: tuple[tuple[Use, int], ...]
    groups: tuple[Group, ...]


def dependencies(mod: IRModule) -> Dependencies:
    """Find the channels of `main`."""
    first = _Round(mod, None)
    return _Round(mod, first).result()


class _Round:
    """One walk over the module."""

    def __init__(self, mod: IRModule, before: _Round | None) -> None:
        self.channels = Channels()
        self.values: dict[relax.Var, tuple[Axes, ...]] = {}
        self.weights: dict[Use, Axes] = {}
        self.contractions: list[tuple[Use, int]] = []
        self._in_vectors: set[relax.Var] = set()
        self._before = before
        self._mod = mod
        main = mod["main"]
        for var in main.params:
            self.values[var] = _unknown(var)
        for block in main.body.blocks:
            for binding in block.bindings:
                self._visit(binding)
        self._fix(main.body.body)

    def _visit(self, binding: relax.Binding) -> None:
        value, var = binding.value, binding.var
        if isinstance(value, relax.Var):
            self.values[var] = self.values[value]
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value in self.values:
            self.values[var] = (self.values[value.tuple_value][value.index],)
        elif isinstance(value, relax.Tuple) and all(f in self.values for f in value.fields):
            self.values[var] = tuple(a for f in value.fields for a in self.values[f])
        elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            self._call(var, value)
        else:  # branches, shapes, what passes have not been told about
            self._fix(value)
            self.values[var] = _unknown(var)

    def _call(self, var: relax.Var, call: relax.Call) -> None:
        name = str(call.op.name)
        if name == "relax.split":
            self._split(var, call)
            return
        recurs = described(self._mod, call)
        if name not in RULES and recurs is None:
            self._fix(call)
            self.values[var] = _unknown(var)
            return
        operands = tensor_operands(call)
        axes = [self._axes(var, i, operand) for i, operand in enumerate(operands)]
        prefer = None
        if self._before is not None:
            prefer = tuple(map(self._before.channels.is_free, self._before.values[var][0]))
        found: list[tuple[int, int]] = []
        site = Site(self.channels, call, operands, axes, prefer, found)
        known = all(len(a) == len(shape_of(o)) for a, o in zip(axes, operands))
        if recurs is not None:
            self.values[var] = recurrence(site)
            if recurs["cell"] == "lstm":
                self._in_vectors.add(var)
        else:
            self.values[var] = ((RULES[name] if known else refuse)(site),)
        self.contractions.extend(((var, operand), axis) for operand, axis in found)

    def _axes(self, var: relax.Var, position: int, operand: relax.Expr) -> Axes:
        if not isinstance(operand, GenericConst):
            return self.values[operand][0]
        dims = [static_dim(d) for d in shape_of(operand)]
        axes = tuple(None if d in (None, 1) else self.channels.new(d or 0) for d in dims)
        self.weights[var, position] = axes
        return axes

    def _split(self, var: relax.Var, call: relax.Call) -> None:
        """The only operator with several results: a slice each."""
        axes = self._axes(var, 0, call.args[0])
        axis = int(call.attrs.axis) % len(axes)
        parts = []
        start = 0
        for field in var.ty.fields:
            count = static_dim(field.shape.values[axis]) if field.shape is not None else None
            ids = axes[axis]
            if count is None or ids is None:
                self.channels.fix(ids)
                part = None
            else:
                part, start = ids[start : start + count], start + count
            parts.append(tuple(part if a == axis else v for a, v in enumerate(axes)))
        self.values[var] = tuple(parts)

    def _fix(self, expr: relax.Expr) -> None:
        for var in relax.analysis.free_vars(expr):
            for axes in self.values.get(var, ()):
                self.channels.fix_all(axes)

    def result(self) -> Dependencies:
        """Axes in terms of representatives, and the groups."""
        roots = self.channels.roots
        values = {v: tuple(tuple(map(roots, a)) for a in axes) for v, axes in self.values.items()}
        weights = {use: tuple(map(roots, axes)) for use, axes in self.weights.items()}
        return Dependencies(values, weights, tuple(self.contractions), self._groups(weights))

    def _groups(self, weights: dict[Use, Axes]) -> tuple[Group, ...]:
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        widths: dict[int, int] = {}
        uses = list(weights)
        for number, use in enumerate(uses):
            for position, axis in enumerate(weights[use]):
                if axis is None:
                    continue
                found, counts = np.unique(axis, return_counts=True)
                for channel, count in zip(found.tolist(), counts.tolist()):
                    if not self.channels.is_fixed(channel):
                        places[channel].append((number, position))
                        widths[channel] = min(count, widths.get(channel, count))
        summed = {(use, axis) for use, axis in self.contractions}
        members: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for channel, seen in places.items():
            if any((uses[number], position) in summed for number, position in seen):
                members[tuple(seen)].append(channel)
        nodes = [
            tuple(dict.fromkeys(_PART.sub("", uses[number][0].name) for number, _ in seen))
            for seen in members
        ]
        are_units = [any(uses[number][0] in self._in_vectors for number, _ in s) for s in members]
        return tuple(
            Group(name, tuple(sorted(channels)), widths[channels[0]], where, units)
            for name, where, channels, units in zip(
                _names(nodes), nodes, members.values(), are_units
            )
        )


# One ONNX node may be several bindings: `name.0`, `name.1`, `name`.
_PART = re.compile(r"\.\d+$")


def _names(candidates: Iterable[tuple[str, ...]]) -> list[str]:
    """The first operator of each group; numbered where several groups start alike."""
    taken: dict[str, int] = {}
    result = []
    for names in candidates:
        count = taken[names[0]] = taken.get(names[0], 0) + 1
        result.append(names[0] if count == 1 else f"{names[0]}.{count}")
    return result


def _unknown(var: relax.Var) -> tuple[Axes, ...]:
    """Axes of a value that stays as it is."""
    ty = var.ty
    fields = list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]
    return tuple((None,) * max(0, getattr(field, "ndim", 0)) for field in fields)
