"""Nests without a reduction: moves, elementwise operators, gathers.

The innermost loop is left to LLVM, which vectorizes it, tails and gathers included; here the loops
become few and long, concatenations become one loop per operand, and transposes go through squares
that are turned in registers.
"""

from __future__ import annotations

from tvm import ir, tirx
from tvm.ir import Call
from tvm.sym import Analyzer

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import as_int, simple
from relaxc.targets.llvm.kernels.relayout import transpose
from relaxc.targets.llvm.schedule.access import ONE, collapsed, static_stride
from relaxc.targets.llvm.schedule.functions import expand_functions
from relaxc.targets.llvm.schedule.loops import grid
from relaxc.targets.llvm.schedule.nest import (
    Axis,
    Nest,
    Store,
    analyzer_of,
    calls_of,
    loads_of,
    replace_loads,
    substitute,
    uses,
)


def emit_assignment(b: KernelBuilder, nest: Nest, parallel: bool = True) -> None:
    """Write the loops of a flattened nest without reduction."""
    for part in _parts(nest):
        part = collapsed(part)
        turned = _turned_axis(part, b.lanes)
        if turned is None:
            _emit_rows(b, part, parallel)
        else:
            _emit_turned(b, part, turned, parallel)


def work_of(nest: Nest) -> Expr | int:
    """Operations in all: elements, weighted by the functions called for each."""
    calls = sum(1 for s in nest.stores for name in calls_of(s.value) if name.startswith("tirx."))
    total: Expr | int = 1 + 8 * calls
    for axis in nest.axes:
        total = total * simple(axis.extent)
    return total


def _emit_rows(b: KernelBuilder, nest: Nest, parallel: bool) -> None:
    values = [expand_functions(s.value) for s in nest.stores]

    def store(values_of: dict[tirx.Var, Expr]) -> None:
        for s, value in zip(nest.stores, values):
            at = [substitute(i, values_of) for i in s.indices]
            b.emit(tirx.BufferStore(s.buffer, substitute(value, values_of), at))

    *outer, last = nest.spatial or (Axis(tirx.Var("once", "int64"), ONE),)

    def row(indices: list[Expr], _task: Expr) -> None:
        at = {axis.var: i for axis, i in zip(outer, indices)}
        with b.loop(simple(last.extent)) as i:
            store(at | {last.var: i})

    def element(indices: list[Expr], _task: Expr) -> None:
        store({last.var: indices[0]})

    if outer:
        grid(b, [a.extent for a in outer], work_of(nest), row, parallel)
    else:
        grid(b, [last.extent], work_of(nest), element, parallel)


def _parts(nest: Nest) -> list[Nest]:
    """A nest per side of a concatenation: of a condition `c <= i` around the whole value."""
    if len(nest.stores) != 1:
        return [nest]
    value = nest.stores[0].value
    if not isinstance(value, Call) or not isinstance(value.op, ir.Op):
        return [nest]
    if str(value.op.name) != "prim.if_then_else":
        return [nest]
    condition, then, otherwise = value.args
    if not isinstance(condition, tirx.LE):
        return [nest]
    axis = next((a for a in nest.spatial if a.var.same_as(condition.b)), None)
    low = as_int(condition.a)
    if axis is None or axis.size is None or low is None or not 0 < low < axis.size:
        return [nest]
    parts = []
    for first, count, side in ((0, low, otherwise), (low, axis.size - low, then)):
        fresh = Axis(axis.var, index(count))
        moved = {axis.var: axis.var + index(first)}
        analyzer = analyzer_of((*[a for a in nest.spatial if a is not axis], fresh))
        store = nest.stores[0]
        at = tuple(analyzer.simplify(substitute(i, moved)) for i in store.indices)
        part = Nest(
            tuple(fresh if a is axis else a for a in nest.spatial),
            (),
            (),
            (Store(store.buffer, at, _simplify_loads(substitute(side, moved), analyzer)),),
        )
        parts += _parts(part)
    return parts


def _simplify_loads(value: Expr, analyzer: Analyzer) -> Expr:
    return replace_loads(
        value, lambda x: tirx.BufferLoad(x.source, [analyzer.simplify(i) for i in x.indices])
    )


def _turned_axis(nest: Nest, lanes: int) -> Axis | None:
    """The axis along which a transpose reads memory, while it writes along its last axis."""
    if len(nest.stores) != 1 or len(nest.spatial) < 2:
        return None
    store, last = nest.stores[0], nest.spatial[-1]
    loads = loads_of(store.value)
    if (
        len(loads) != 1
        or not loads[0].same_as(store.value)
        or str(store.value.ty.dtype) != "float32"
    ):
        return None
    analyzer = analyzer_of(nest.axes)
    at = loads[0].indices[0]
    if static_stride(store.indices[0], last, analyzer) != 1 or not uses(at, last.var):
        return None
    found = [a for a in nest.spatial[:-1] if static_stride(at, a, analyzer) == 1]
    if not found or static_stride(at, last, analyzer) == 1:
        return None
    if any(a.size is not None and a.size < lanes for a in (found[0], last)):
        return None
    return found[0]


def _emit_turned(b: KernelBuilder, nest: Nest, turned: Axis, parallel: bool) -> None:
    """Squares of lanes x lanes; the last on each axis overlaps its neighbour."""
    lanes, last = b.lanes, nest.spatial[-1]
    store = nest.stores[0]
    source = store.value
    outer = [a for a in nest.spatial if a is not turned and a is not last]
    tiles = [-(-simple(a.extent) // lanes) for a in (turned, last)]

    def square(indices: list[Expr], _task: Expr) -> None:
        at = {a.var: i for a, i in zip(outer, indices)}
        first = [
            b.let(tirx.min(i * lanes, index(simple(a.extent)) - lanes))
            for a, i in zip((turned, last), indices[len(outer) :])
        ]

        def place(expr: Expr, row: Expr, column: Expr) -> Expr:
            return substitute(expr, at | {turned.var: row, last.var: column})

        buffer = Buffer(source.source, "float32", ())
        rows = [
            b.let(b.load(buffer, place(source.indices[0], first[0], first[1] + index(i))))
            for i in range(lanes)
        ]
        target = Buffer(store.buffer, "float32", ())
        for i, row in enumerate(transpose(b, rows)):
            b.store(target, place(store.indices[0], first[0] + index(i), first[1]), row)

    def fits() -> Expr | None:
        conditions = [a.extent >= lanes for a in (turned, last) if a.size is None]
        return (
            None
            if not conditions
            else conditions[0]
            if len(conditions) == 1
            else tirx.And(*conditions)
        )

    big = fits()
    with b.when(big):
        grid(b, [*[a.extent for a in outer], *tiles], work_of(nest), square, parallel)
    if big is not None:
        with b.when(tirx.Not(big)):
            _emit_rows(b, nest, parallel)
