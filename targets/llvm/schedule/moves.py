"""Moves of elements as they are: transposes in registers, and copies around the caches."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx

from relaxc.targets.llvm.kernels.builder import LINE, Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.domain import as_int, simple
from relaxc.targets.llvm.kernels.loops import grid
from relaxc.targets.llvm.kernels.streaming import fence, pays, stream
from relaxc.targets.llvm.kernels.turn import Place, Tile, Turn, emit_turn
from relaxc.targets.llvm.kernels.weave import emit_weave, weave_lanes
from relaxc.targets.llvm.schedule.access import ZERO, static_stride
from relaxc.targets.llvm.schedule.nest import (
    Axis,
    Nest,
    analyzer_of,
    loads_of,
    substitute,
    uses,
)

# Bytes by type; what has no entry is moved element by element.
_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64"), 8),
}
# Bytes ahead for which lines are fetched, of rows that do not follow one another.
_AHEAD = 2048


def emit_move(b: KernelBuilder, nest: Nest, parallel: bool, otherwise: Callable[[], None]) -> bool:
    """Write the loops of a flattened nest without reduction, if it is a move that has a rule.

    Args:
        b: the kernel.
        nest: what to write.
        parallel: whether threads may share the work.
        otherwise: writes plain loops, where only the run can tell whether axes are long enough.
    """
    if len(nest.stores) != 1 or not nest.spatial:
        return False
    value = nest.stores[0].value
    loads = loads_of(value)
    if len(loads) != 1 or not loads[0].same_as(value) or str(value.ty.dtype) not in _BYTES:
        return False
    move, last = _Move(b, nest, parallel), nest.spatial[-1]
    between = static_stride(value.indices[0], last, analyzer_of(nest.axes))
    if static_stride(nest.stores[0].indices[0], last, analyzer_of(nest.axes)) != 1:
        return False
    if between == 1:
        return move.copied()
    turned = move.turned_axis()
    return turned is not None and (move.turned(turned, otherwise) or move.woven(turned, between))


class _Move:
    """One load that is stored along the last axis."""

    def __init__(self, b: KernelBuilder, nest: Nest, parallel: bool) -> None:
        store = nest.stores[0]
        self.b, self.nest, self.parallel = b, nest, parallel
        self.dtype = str(store.value.ty.dtype)
        self.size = _BYTES[self.dtype]
        self.source, self.target = store.value.indices[0], store.indices[0]
        self.last = nest.spatial[-1]
        self.analyzer = analyzer_of(nest.axes)

    def turned_axis(self) -> Axis | None:
        """The axis along which a transpose reads memory."""
        if not uses(self.source, self.last.var):
            return None
        axes = self.nest.spatial[:-1]
        steps = ((a, static_stride(self.source, a, self.analyzer)) for a in axes)
        return next((axis for axis, step in steps if step == 1), None)

    def turned(self, turned: Axis, otherwise: Callable[[], None]) -> bool:
        """Squares in registers; False where an axis is shorter than one."""
        turn = self._turn(turned)
        tile = Tile.of(self.b.lanes, self.size, turn.turned, turn.last)
        if tile is None:
            return False
        turn = replace(turn, streams=self._streams(tile.width))
        conditions = [e >= tile.side for e in (turn.turned, turn.last) if not isinstance(e, int)]
        fits = tirx.all(*conditions) if conditions else None
        source, target = self._buffers()
        with self.b.when(fits):
            emit_turn(self.b, turn, tile, source, target, self.parallel)
        if fits is not None:
            with self.b.when(tirx.Not(fits)):
                otherwise()
        return True

    def woven(self, turned: Axis, between: int | None) -> bool:
        """Few rows, or rows of few elements; False where they are neither."""
        turn = self._turn(turned)
        lanes = weave_lanes(self.b.lanes, self.size, turn, between)
        if lanes is None:
            return False
        turn = replace(turn, streams=self._streams(lanes))
        source, target = self._buffers()
        emit_weave(self.b, turn, lanes, source, target, self.parallel)
        return True

    def copied(self) -> bool:
        """Rows as they are, around the caches; False where they had better stay in them."""
        b, last, lanes = self.b, self.last, LINE // self.size
        if last.size is None or last.size % lanes or not self._streams(lanes):
            return False
        outer = self.nest.spatial[:-1]
        source, target = self._buffers()
        ahead = -(-_AHEAD // (last.size * self.size))

        def line(values: dict[tirx.Var, Expr]) -> None:
            if outer:
                later = values | {outer[-1].var: values[outer[-1].var] + ahead}
                b.prefetch(source, substitute(self.source, later))
            value = b.load(source, substitute(self.source, values), lanes)
            stream(b, target, substitute(self.target, values), value, lanes)

        def row(indices: list[Expr], _task: Expr) -> None:
            values = {a.var: i for a, i in zip(outer, indices)}
            with b.loop(int(last.extent) // lanes) as i:
                line(values | {last.var: i * lanes})

        def alone(indices: list[Expr], _task: Expr) -> None:
            line({last.var: indices[0] * lanes})

        extents = [a.extent for a in outer] or [last.size // lanes]
        body = row if outer else alone
        grid(b, extents, self._count(), body, self.parallel, finish=functools.partial(fence, b))
        return True

    def _turn(self, turned: Axis) -> Turn:
        last = self.last
        outer = [a for a in self.nest.spatial if a is not turned and a is not last]

        def place(of: Expr) -> Place:
            def at(indices: Sequence[Index], row: Index, column: Index) -> Expr:
                values = {a.var: i for a, i in zip(outer, indices)}
                return substitute(of, values | {turned.var: row, last.var: column})

            return at

        return Turn(
            [simple(axis.extent) for axis in outer],
            simple(turned.extent),
            simple(last.extent),
            place(self.source),
            place(self.target),
            static_stride(self.target, turned, self.analyzer),
        )

    def _buffers(self) -> tuple[Buffer, Buffer]:
        """Source and target, as a type whose vectors LLVM has."""
        bits = "float32" if self.dtype == "float32" else f"uint{8 * self.size}"
        store = self.nest.stores[0]
        return self._viewed(store.value.source, bits), self._viewed(store.buffer, bits)

    def _viewed(self, buffer: Any, dtype: str) -> Buffer:
        shape = tuple(buffer.shape)
        if str(buffer.dtype) == dtype:
            return Buffer(buffer, dtype, shape)
        flat = tirx.decl_buffer(shape, dtype, f"{buffer.name}_bits")
        self.b.emit(tirx.DeclBuffer(flat, data=buffer.data))
        return Buffer(flat, dtype, shape)

    def _count(self) -> Index:
        return functools.reduce(operator.mul, (simple(a.extent) for a in self.nest.spatial))

    def _streams(self, lanes: int) -> bool:
        """Whether to write around the caches, in vectors of so many elements."""
        axes = self.nest.spatial
        first = substitute(self.target, {axis.var: ZERO for axis in axes})
        steps = [static_stride(self.target, axis, self.analyzer) for axis in axes]
        # A vector may hold several indices of the axes that lie closest.
        starts = [s for s in steps if s is None or s >= lanes]
        inner = [simple(a.extent) for a, s in zip(axes, steps) if s is not None and s < lanes]
        inside = functools.reduce(operator.mul, inner)
        if lanes * self.size != LINE or not isinstance(inside, int) or inside % lanes:
            return False
        begin = as_int(self.analyzer.simplify(first))
        return pays(self.b, self._count(), self.size, (begin, *starts))
