"""Compute cheap intermediate results where they are read, instead of storing them.

Before:                                     After:
    for i: a[i] = x[i] * 2                      for i: b[i] = exp(x[i] * 2)
    for i: b[i] = exp(a[i])                     for i, k: s[i] += y[i, k]
    for i, k: s[i] += y[i, k]                       then  z[i] = s[i] / 8
    for i: z[i] = s[i] / 8

A result is inlined where that repeats no work worth mentioning: moves of data always, arithmetic if
each element is read once, or is cheap. What only post-processes a reduction becomes its `finals`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.sym import Analyzer

from relaxc.targets.llvm.kernels.builder import Expr
from relaxc.targets.llvm.schedule.nest import (
    Axis,
    Nest,
    Program,
    calls_of,
    loads_of,
    replace_loads,
    simplified,
    substitute,
    uses,
)

_BRANCH = "prim.if_then_else"


def inline(program: Program) -> Program:
    """Inline all producers for which it pays, then attach epilogues to reductions."""
    nests = list(program.nests)
    internal = set(program.internal)
    position = 0
    while position < len(nests):
        producer = nests[position]
        consumers = [n for n in nests if _reads(n, producer)]
        if not (_can_inline(producer, internal) and consumers and _pays(producer, consumers)):
            position += 1
            continue
        internal.discard(producer.stores[0].buffer)
        nests = [_inlined(n, producer) for n in nests if n is not producer]
    position = 0
    while position < len(nests):
        fused = _with_finals(nests, nests[position], internal)
        if fused is None:
            position += 1
            continue
        consumer, nest = fused
        internal -= {s.buffer for s in nest.stores}
        nests = [nest if n is nests[position] else n for n in nests if n is not consumer]
    left = tuple(b for b in program.internal if b in internal)
    return Program(program.func, tuple(simplified(n) for n in nests), left)


def _can_inline(nest: Nest, internal: set[Any]) -> bool:
    """A plain assignment to a whole internal buffer, in order."""
    if nest.reduction or len(nest.stores) != 1 or nest.stores[0].buffer not in internal:
        return False
    return _is_identity(nest, nest.stores[0].indices)


def _is_identity(nest: Nest, indices: tuple[Expr, ...]) -> bool:
    """Whether indices are the spatial axes in order, but for dimensions of one."""
    wide = [i for i in indices if not isinstance(i, tirx.IntImm)]
    return len(wide) == len(nest.spatial) and all(
        isinstance(i, tirx.Var) and i.same_as(a.var) for i, a in zip(wide, nest.spatial)
    )


def _reads(nest: Nest, producer: Nest) -> bool:
    written = {s.buffer for s in producer.outputs}
    return nest is not producer and any(
        load.source in written
        for store in (*nest.stores, *nest.finals)
        for expr in (store.value, *store.indices)
        for load in loads_of(expr)
    )


def _pays(producer: Nest, consumers: list[Nest]) -> bool:
    value = producer.stores[0].value
    calls = set(calls_of(value))
    moves = not calls - {_BRANCH} and _arithmetic(value) == 0
    if any(is_contraction(n) for n in consumers):
        # Every element is read many times, in the innermost loop.
        return moves and _BRANCH not in calls and len(loads_of(value)) == 1
    alone = len(consumers) == 1 and _same_work(producer, consumers[0])
    if moves:
        # A window that slides over a padded map would test every element again and again.
        return alone or _BRANCH not in calls or not any(n.reduction for n in consumers)
    if alone:
        return _count_reads(consumers[0], producer) == 1 or _cost(value) <= 4
    return _cost(value) <= 4


def _arithmetic(value: Expr) -> int:
    """Operations on floating-point numbers."""
    count = 0

    def visit(expr: Expr) -> None:
        nonlocal count
        count += str(expr.ty.dtype).startswith(("float", "bfloat"))

    kinds = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min)
    tvm_ffi.structural_walk(value, (kinds, visit))
    return count


def _cost(value: Expr) -> int:
    """Roughly, operations per element: a call of a function weighs ten."""
    return _arithmetic(value) + 10 * sum(name != _BRANCH for name in calls_of(value))


def _count_reads(nest: Nest, producer: Nest) -> int:
    target = producer.stores[0].buffer
    values = [s.value for s in (*nest.stores, *nest.finals)]
    return sum(load.source.same_as(target) for value in values for load in loads_of(value))


def _same_work(producer: Nest, consumer: Nest) -> bool:
    """Whether the consumer runs through as many elements as there are."""
    left = [a.extent for a in producer.spatial]
    right = [a.extent for a in consumer.axes]
    analyzer = Analyzer()
    return len(left) == len(right) and all(
        analyzer.can_prove_equal(a, b) for a, b in zip(left, right)
    )


def is_contraction(nest: Nest) -> bool:
    """Whether a reduction reads each element of an operand for many results."""
    own = {s.buffer for s in nest.stores}
    return any(
        any(uses(i, a.var) for a in nest.reduction for i in load.indices)
        and not all(any(uses(i, a.var) for i in load.indices) for a in nest.spatial)
        for s in nest.stores
        for load in loads_of(s.value)
        if load.source not in own
    )


def _inlined(nest: Nest, producer: Nest) -> Nest:
    store = producer.stores[0]

    def change(load: TensorLoad) -> Expr:
        if not load.source.same_as(store.buffer):
            return load
        axes = iter(producer.spatial)
        values = {
            next(axes).var: at
            for own, at in zip(store.indices, load.indices)
            if not isinstance(own, tirx.IntImm)
        }
        return substitute(store.value, values)

    return nest.mapped(lambda expr: replace_loads(expr, change))


def _with_finals(nests: list[Nest], nest: Nest, internal: set[Any]) -> tuple[Nest, Nest] | None:
    """The only consumer of a reduction, and the reduction with it as epilogue."""
    if not nest.reduction or nest.finals:
        return None
    if not all(s.buffer in internal and _is_identity(nest, s.indices) for s in nest.stores):
        return None
    consumers = [n for n in nests if _reads(n, nest)]
    if len(consumers) != 1 or consumers[0].reduction:
        return None
    consumer = consumers[0]
    if not _matches(nest.spatial, consumer.spatial):
        return None
    own = {s.buffer: s.indices for s in nest.stores}
    axes = {c.var: a.var for c, a in zip(consumer.spatial, nest.spatial)}
    moved = consumer.mapped(lambda expr: substitute(expr, axes))
    for store in moved.stores:
        for load in loads_of(store.value):
            if load.source in own and not _same_place(load.indices, own[load.source]):
                return None
    # The consumer moves forward: nothing that it reads may be written in between.
    between = nests[nests.index(nest) + 1 : nests.index(consumer)]
    if any(_reads(consumer, n) for n in between):
        return None
    return consumer, replace(nest, finals=moved.stores)


def _matches(left: tuple[Axis, ...], right: tuple[Axis, ...]) -> bool:
    analyzer = Analyzer()
    return len(left) == len(right) and all(
        analyzer.can_prove_equal(a.extent, b.extent) for a, b in zip(left, right)
    )


def _same_place(left: Any, right: Any) -> bool:
    analyzer = Analyzer()
    return all(analyzer.can_prove_equal(a, b) for a, b in zip(left, right))
