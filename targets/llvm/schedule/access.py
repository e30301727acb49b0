"""How a nest walks through memory: strides of its axes, and axes that are one in truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.sym import Analyzer
from tvm.tirx import BufferLoad

from relaxc.targets.llvm.kernels.builder import Expr
from relaxc.targets.llvm.schedule.nest import (
    Axis,
    Nest,
    Store,
    analyzer_of,
    flat_index,
    loads_of,
    replace_loads,
    simplified,
    substitute,
    uses,
)

ZERO, ONE = tirx.IntImm("int64", 0), tirx.IntImm("int64", 1)


@dataclass(frozen=True)
class Place:
    """Where a buffer of the original PrimFunc lies now.

    Attributes:
        buffer: its flat view.
        shape: its original dimensions.
        dropped: leading dimensions that one task has only one element of.
        offset: elements before the task's own.
    """

    buffer: Any
    shape: tuple[Expr, ...]
    dropped: int = 0
    offset: Expr = ZERO

    def index(self, indices: Any) -> Expr:
        """The offset of an element."""
        kept = self.shape[self.dropped :]
        return self.offset + flat_index(kept, tuple(indices)[self.dropped :])


def flattened(nest: Nest, places: Mapping[Any, Place]) -> Nest:
    """The nest on flat buffers. A reduction's own loads keep their buffer: they mean registers."""
    analyzer = analyzer_of(nest.axes)
    own = {s.buffer for s in nest.stores} if nest.reduction else set()

    def flat(load: TensorLoad) -> Expr:
        if load.source in own:
            return load
        place = places[load.source]
        at = analyzer.simplify(place.index(load.indices))
        return BufferLoad(place.buffer, [at])

    def moved(store: Store, keep: bool) -> Store:
        value = replace_loads(store.value, flat)
        if keep:
            return Store(store.buffer, store.indices, value)
        place = places[store.buffer]
        at = analyzer.simplify(place.index(store.indices))
        return Store(place.buffer, (at,), value)

    stores = tuple(moved(s, keep=bool(nest.reduction)) for s in nest.stores)
    if not nest.reduction:
        return replace(nest, stores=stores)
    results = nest.finals or tuple(
        Store(s.buffer, s.indices, BufferLoad(s.buffer, list(s.indices))) for s in nest.stores
    )
    return replace(nest, stores=stores, finals=tuple(moved(s, keep=False) for s in results))


def accesses(nest: Nest) -> list[Expr]:
    """Flat indices of everything that a flattened nest reads or writes in memory."""
    own = {s.buffer for s in nest.stores} if nest.reduction else set()
    found = [s.indices[0] for s in nest.outputs]
    for store in (*nest.stores, *nest.finals):
        found += [x.indices[0] for x in loads_of(store.value) if x.source not in own]
    return found


def operand_accesses(nest: Nest) -> list[Expr]:
    """Flat indices of what the body of a flattened reduction reads."""
    own = {s.buffer for s in nest.stores}
    return [x.indices[0] for s in nest.stores for x in loads_of(s.value) if x.source not in own]


def stride(at: Expr, axis: Axis, analyzer: Analyzer) -> Expr | None:
    """By how much an index grows from one iteration to the next; None where that varies."""
    if not uses(at, axis.var):
        return ZERO
    step = analyzer.simplify(substitute(at, {axis.var: axis.var + ONE}) - at)
    return None if uses(step, axis.var) else step


def static_stride(at: Expr, axis: Axis, analyzer: Analyzer) -> int | None:
    """The stride, where it is a known number."""
    step = stride(at, axis, analyzer)
    return int(step) if isinstance(step, tirx.IntImm) else None


def collapsed(nest: Nest) -> Nest:
    """The nest with neighbouring axes merged that every access walks through as one."""
    spatial, nest = _collapsed(nest, nest.spatial)
    reduction, nest = _collapsed(nest, nest.reduction)
    return simplified(replace(nest, spatial=spatial, reduction=reduction))


def _collapsed(nest: Nest, axes: tuple[Axis, ...]) -> tuple[tuple[Axis, ...], Nest]:
    kept: list[Axis] = []
    for axis in axes:
        if kept and _are_one(nest, kept[-1], axis):
            outer = kept.pop()
            nest = _without(nest, outer)
            axis = Axis(axis.var, Analyzer().simplify(outer.extent * axis.extent))
        kept.append(axis)
    return tuple(kept), nest


def _are_one(nest: Nest, outer: Axis, inner: Axis) -> bool:
    analyzer = analyzer_of(nest.axes)
    for store in (*nest.stores, *nest.finals):
        bare = replace_loads(
            store.value, lambda load: BufferLoad(load.source, [ZERO] * len(load.indices))
        )
        if uses(bare, outer.var) or uses(bare, inner.var):
            return False
    for at in accesses(nest):
        a, b = stride(at, outer, analyzer), stride(at, inner, analyzer)
        if a is None or b is None or not analyzer.can_prove_equal(a, b * inner.extent):
            return False
    return True


def _without(nest: Nest, axis: Axis) -> Nest:
    """The nest with an axis at zero; the axis inside of it takes over."""
    values = {axis.var: ZERO}
    return nest.mapped(lambda expr: substitute(expr, values))
