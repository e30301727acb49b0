"""Nests without a reduction: moves, elementwise operators, gathers.

The innermost loop is left to LLVM, which vectorizes it, tails and gathers included; here the loops
become few and long, and concatenations become one loop per operand. Transposes, and copies of what
no cache holds, are written out in moves.py.
"""

from __future__ import annotations

import functools

from tvm import ir, tirx
from tvm.ir import Call
from tvm.sym import Analyzer

from relaxc.targets.llvm.kernels.builder import Expr, KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import as_int, simple
from relaxc.targets.llvm.kernels.loops import grid
from relaxc.targets.llvm.schedule.access import ONE, collapsed
from relaxc.targets.llvm.schedule.functions import expand_functions
from relaxc.targets.llvm.schedule.moves import emit_move
from relaxc.targets.llvm.schedule.nest import (
    Axis,
    Nest,
    Store,
    analyzer_of,
    calls_of,
    replace_loads,
    substitute,
)


def emit_assignment(b: KernelBuilder, nest: Nest, parallel: bool = True) -> None:
    """Write the loops of a flattened nest without reduction."""
    for part in _parts(nest):
        part = collapsed(part)
        rows = functools.partial(_emit_rows, b, part, parallel)
        if not emit_move(b, part, parallel, rows):
            rows()


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
