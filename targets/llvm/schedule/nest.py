"""Loop nests as data: what a PrimFunc computes, apart from the order in which it does.

TVM's legalization writes an operator, and FuseTIR a group of operators, as a sequence of blocks,
each under its own loops. A `Nest` is one of them; the rules of this folder choose its loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.ir import Range, Var
from tvm.ir.expr import TensorLoad
from tvm.sym import Analyzer
from tvm.tirx import BufferLoad, BufferStore, SeqStmt
from tvm.tirx.buffer import BufferType

from relaxc.targets.llvm.kernels.builder import Expr

_SPATIAL, _REDUCTION = 0, 2


@dataclass(frozen=True, eq=False)
class Axis:
    """A loop from zero.

    Attributes:
        var: its variable.
        extent: number of iterations, an int64 expression.
    """

    var: Var
    extent: Expr

    @property
    def size(self) -> int | None:
        """The number of iterations, when it is known."""
        return int(self.extent) if isinstance(self.extent, tirx.IntImm) else None


@dataclass(frozen=True, eq=False)
class Store:
    """One assignment.

    Attributes:
        buffer: the target.
        indices: where; one index per dimension, or a flat one.
        value: what; for a reduction the new value, which reads the old one at the same place.
    """

    buffer: Any
    indices: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Nest:
    """One block of a PrimFunc.

    Attributes:
        spatial: axes that choose an element of the result.
        reduction: axes that are summed (or otherwise combined) over.
        inits: what the results start as, one per store; empty without reduction.
        stores: the assignments in the innermost body.
        finals: for a reduction, what becomes of the results, once complete; in `value`, loads of
            the buffers in `stores` stand for them.
    """

    spatial: tuple[Axis, ...]
    reduction: tuple[Axis, ...]
    inits: tuple[Expr, ...]
    stores: tuple[Store, ...]
    finals: tuple[Store, ...] = ()

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes."""
        return self.spatial + self.reduction

    @property
    def outputs(self) -> tuple[Store, ...]:
        """The assignments that remain in memory."""
        return self.finals or self.stores

    def mapped(self, change: Callable[[Expr], Expr]) -> Nest:
        """The nest with every index and value changed."""

        def moved(stores: tuple[Store, ...]) -> tuple[Store, ...]:
            return tuple(
                Store(s.buffer, tuple(change(i) for i in s.indices), change(s.value))
                for s in stores
            )

        inits = tuple(change(i) for i in self.inits)
        return replace(self, inits=inits, stores=moved(self.stores), finals=moved(self.finals))


@dataclass(frozen=True, eq=False)
class Program:
    """All nests of a PrimFunc in order, and the buffers between them."""

    func: tirx.PrimFunc
    nests: tuple[Nest, ...]
    internal: tuple[Any, ...]


def read_program(func: tirx.PrimFunc) -> Program | None:
    """Take a PrimFunc apart; None where it is more than perfect nests of loops around blocks."""
    if not isinstance(func.body, s_tir.SBlockRealize):
        return None
    root = func.body.block
    buffers = [p for p in func.params if isinstance(p.ty, BufferType)] + list(root.alloc_buffers)
    if root.init is not None or any(list(b.strides) for b in buffers):
        return None
    nests = [_read_nest(statement) for statement in _sequence(root.body)]
    if not nests or any(nest is None for nest in nests):
        return None
    return Program(func, tuple(n for n in nests if n is not None), tuple(root.alloc_buffers))


def _sequence(body: Any) -> list[Any]:
    return list(body.seq) if isinstance(body, SeqStmt) else [body]


def _read_nest(statement: Any) -> Nest | None:
    extents: dict[Var, Expr] = {}
    while isinstance(statement, tirx.For):
        if statement.kind != tirx.ForKind.SERIAL or not _is(statement.min, 0):
            return None
        extents[statement.loop_var] = statement.extent
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize) or not _is(statement.predicate, 1):
        return None
    block = statement.block
    if list(block.alloc_buffers) or list(block.match_buffers):
        return None
    axes: dict[int, list[Axis]] = {_SPATIAL: [], _REDUCTION: []}
    zero: dict[Var, Expr] = {}
    for item, value in zip(block.iter_vars, statement.iter_values):
        kind = int(item.iter_type)
        if kind not in axes:
            return None
        if _is(value, 0):
            zero[item.var] = value
        elif value in extents and kind in axes:
            extent = extents.pop(value)
            if _is(extent, 1):
                zero[item.var] = tirx.IntImm("int64", 0)
            else:
                axes[kind].append(Axis(item.var, extent))
        else:
            return None
    # A loop that no axis follows would repeat the block.
    if any(not _is(extent, 1) for extent in extents.values()):
        return None
    stores = _read_stores(block.body)
    inits = () if block.init is None else _read_stores(block.init)
    if stores is None or inits is None or len(inits) not in (0, len(stores)):
        return None
    if any(str(a.var.ty.dtype) != "int64" for kind in axes.values() for a in kind):
        return None
    nest = Nest(
        tuple(axes[_SPATIAL]), tuple(axes[_REDUCTION]), tuple(i.value for i in inits), stores
    )
    nest = nest.mapped(lambda e: substitute(e, zero)) if zero else nest
    return nest if nest.reduction or not nest.inits else _unreduced(nest)


def _unreduced(nest: Nest) -> Nest:
    """A reduction of one step as a plain assignment."""
    starts = {store.buffer: init for store, init in zip(nest.stores, nest.inits)}
    values = [
        replace_loads(s.value, lambda load: starts.get(load.source, load)) for s in nest.stores
    ]
    stores = tuple(Store(s.buffer, s.indices, v) for s, v in zip(nest.stores, values))
    return replace(nest, inits=(), stores=stores)


def _read_stores(body: Any) -> tuple[Store, ...] | None:
    names: dict[Var, Expr] = {}
    stores: list[Store] = []
    for statement in _sequence(body):
        if isinstance(statement, tirx.Bind):
            names[statement.var] = substitute(statement.value, names)
        elif isinstance(statement, BufferStore):
            # Values were bound before: a store must not change what a later value reads.
            written = {s.buffer for s in stores}
            if not isinstance(statement.value, Var) and any(
                load.source in written for load in loads_of(statement.value)
            ):
                return None
            indices = tuple(substitute(i, names) for i in statement.indices)
            stores.append(Store(statement.buffer, indices, substitute(statement.value, names)))
        else:
            return None
    return tuple(stores)


def _is(expr: Expr, value: int) -> bool:
    return isinstance(expr, tirx.IntImm) and int(expr) == value


def substitute(expr: Expr, values: Mapping[Var, Expr]) -> Expr:
    """The expression with variables replaced."""
    if not values:
        return expr
    return tvm_ffi.structural_map(expr, (Var, lambda var: values.get(var, var)))


def replace_loads(expr: Expr, change: Callable[[TensorLoad], Expr]) -> Expr:
    """The expression with every load replaced, the innermost first."""
    return tvm_ffi.structural_map(expr, (TensorLoad, change))


def loads_of(expr: Expr) -> list[TensorLoad]:
    """All loads, also those in indices."""
    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(expr, (TensorLoad, found.append))
    return found


def calls_of(expr: Expr) -> Iterator[str]:
    """Names of all operators that are called."""
    found: list[ir.Call] = []
    tvm_ffi.structural_walk(expr, (ir.Call, found.append))
    for call in found:
        yield str(call.op.name) if isinstance(call.op, ir.Op) else "?"


def uses(expr: Expr, var: Var) -> bool:
    """Whether a variable occurs."""
    found: list[Var] = []
    tvm_ffi.structural_walk(expr, (Var, lambda v: found.append(v) if v.same_as(var) else None))
    return bool(found)


def analyzer_of(axes: tuple[Axis, ...]) -> Analyzer:
    """An analyzer that knows the ranges of the axes."""
    analyzer = Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, Range(tirx.IntImm("int64", 0), axis.extent))
    return analyzer


def flat_index(shape: tuple[Expr, ...], indices: tuple[Expr, ...]) -> Expr:
    """The row-major offset of an element."""
    offset: Expr = tirx.IntImm("int64", 0)
    for dim, i in zip(shape, indices):
        offset = offset * dim + i
    return offset


def simplified(nest: Nest) -> Nest:
    """The nest with simple indices, as far as the ranges of the axes tell."""
    analyzer = analyzer_of(nest.axes)

    def indices(load: TensorLoad) -> Expr:
        return BufferLoad(load.source, [analyzer.simplify(i) for i in load.indices])

    def stores(items: tuple[Store, ...]) -> tuple[Store, ...]:
        return tuple(
            Store(
                s.buffer,
                tuple(analyzer.simplify(i) for i in s.indices),
                replace_loads(s.value, indices),
            )
            for s in items
        )

    return replace(nest, stores=stores(nest.stores), finals=stores(nest.finals))
