"""Nests with a reduction: sums, extremes, products of matrices, convolutions, pooling.

Two ways to fill vectors, chosen by the strides of the operands:

    columns   neighbouring results in a vector; where an operand is the same for neighbours on
              another axis (a matrix product, a convolution), a tile of that axis by several
              vectors shares every load
    rows      neighbouring terms of one sum in a vector, joined across in the end

A last tile that does not fit is moved back over its neighbour; what is shorter than a tile runs in
narrower ones. Results do not depend on it: every element is computed from start to end alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad, BufferStore, ForKind
from tvm_ffi import StructuralKey

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.loops import grid
from relaxc.targets.llvm.kernels.rows import across
from relaxc.targets.llvm.schedule.access import ZERO, collapsed
from relaxc.targets.llvm.schedule.addresses import Steps
from relaxc.targets.llvm.schedule.assign import work_of
from relaxc.targets.llvm.schedule.functions import expand_functions
from relaxc.targets.llvm.schedule.nest import Axis, Nest, replace_loads, substitute
from relaxc.targets.llvm.schedule.plan import Plan, choose_plan, combiner

Values = dict[tirx.Var, Expr]


def emit_reduction(b: KernelBuilder, nest: Nest, registers: int, parallel: bool = True) -> None:
    """Write the loops of a flattened reduction."""
    nest = collapsed(nest)
    plan = choose_plan(nest, b.lanes, registers)
    _Reduction(b, nest, plan, Steps.of(b, nest, plan.vector)).emit(parallel)


@dataclass(frozen=True)
class _Reduction:
    b: KernelBuilder
    nest: Nest
    plan: Plan
    steps: Steps

    def emit(self, parallel: bool) -> None:
        """The grid of tiles."""
        b, plan = self.b, self.plan
        outer = [a for a in self.nest.spatial if a not in (plan.vector, plan.tiled)]
        spans = []
        if plan.kind == "columns":
            spans.append(_span(b, plan.vector, plan.vectors * b.lanes, b.lanes))
        if plan.tiled is not None:
            spans.append(_span(b, plan.tiled, plan.rows, plan.rows))
        extents = [*[a.extent for a in outer], *[s.count for s in spans]]

        def tiles(indices: list[Expr], _task: Expr) -> None:
            values = {a.var: i for a, i in zip(outer, indices)}
            self._pick(spans, indices[len(outer) :], values, [])

        # The code of tiles is long: where only the run knows the work, it is written once.
        grid(b, extents, work_of(self.nest), tiles, parallel, ask=not plan.is_tile)

    def _pick(
        self, spans: Sequence[_Span], at: Sequence[Expr], values: Values, sizes: list[_Piece]
    ) -> None:
        """Branch to the code for the tile's size on each axis."""
        if len(sizes) == len(spans):
            self._tile(values, sizes)
            return
        span = spans[len(sizes)]
        for condition, start, size in span.cases(at[len(sizes)]):
            with self.b.when(condition):
                first = self.b.opaque(start)
                piece = _Piece(span.axis, first, size)
                self._pick(spans, at, values, [*sizes, piece])

    def _tile(self, values: Values, pieces: Sequence[_Piece]) -> None:
        b, plan = self.b, self.plan
        rows: list[Values] = [values]
        width, columns = 1, [values]
        for piece in pieces:
            if piece.axis is plan.vector:
                width = min(piece.size, b.lanes)
                starts = range(0, piece.size, width)
                columns = [{piece.axis.var: piece.first + index(s)} for s in starts]
            else:
                rows = [{piece.axis.var: piece.first + index(i)} for i in range(piece.size)]
        bound: dict[StructuralKey, Expr] = {}
        points = []
        for row in rows:
            for column in columns:
                point = values | row | column
                points.append(point | self.steps.bind(b, point, bound))
        if plan.kind == "rows":
            self._rows(points)
        else:
            self._columns(points, width)

    # -- neighbouring results in a vector --------------------------------------------------

    def _columns(self, points: Sequence[Values], width: int) -> None:
        b, nest = self.b, self.nest
        tiles = [
            [self._accumulator(s.value, init, width) for s, init in self._pairs()] for _ in points
        ]

        def steps(axes: Sequence[Axis], at: Values) -> None:
            if axes:
                with b.loop(simple(axes[0].extent)) as i:
                    steps(axes[1:], at | {axes[0].var: i})
                return
            for point, accs in zip(points, tiles):
                self._update(point | at, accs, width)

        steps(nest.reduction, {})
        for point, accs in zip(points, tiles):
            self._finish(point, accs, width)

    def _pairs(self) -> list[tuple[Any, Expr]]:
        return list(zip(self.nest.stores, self.nest.inits))

    def _accumulator(self, like: Expr, init: Expr, width: int) -> Buffer:
        b, dtype = self.b, str(like.ty.dtype)
        acc = b.workspace(width, dtype, "acc")
        b.store(acc, 0, tirx.Broadcast(init, width) if width > 1 else init, width)
        return acc

    def _update(self, point: Values, accs: Sequence[Buffer], width: int) -> None:
        """One step of every result of a vector; all new values before the first is stored."""
        axis = self.plan.vector

        def body(lane: Expr) -> None:
            at = point | {self.steps.lane: lane}
            values = [self._read(v, at, accs, lane, axis) for v in self.steps.values]
            if len(values) > 1:
                values = [self.b.let(v) for v in values]
            for acc, value in zip(accs, values):
                self.b.emit(BufferStore(acc.data, value, [lane]))

        self._lanes(width, body)

    def _finish(self, point: Values, accs: Sequence[Buffer], width: int) -> None:
        axis = self.plan.vector

        def body(lane: Expr) -> None:
            for final in self.nest.finals:
                value = self._read(expand_functions(final.value), point, accs, lane, axis)
                at = self._at(point, lane, axis)
                self.b.emit(BufferStore(final.buffer, value, [substitute(final.indices[0], at)]))

        self._lanes(width, body)

    def _lanes(self, width: int, body: Callable[[Expr], None]) -> None:
        if width == 1:
            body(ZERO)
            return
        with self.b.loop(width, ForKind.VECTORIZED) as lane:
            body(lane)

    def _at(self, point: Values, lane: Expr, axis: Axis | None) -> Values:
        return (
            point
            if axis is None or axis.var not in point
            else point | {axis.var: point[axis.var] + lane}
        )

    def _read(
        self, value: Expr, point: Values, accs: Sequence[Buffer], lane: Expr, axis: Axis | None
    ) -> Expr:
        """A value of the nest at a point, where the results so far are in accumulators."""
        own = {s.buffer: acc for s, acc in zip(self.nest.stores, accs)}

        def load(access: TensorLoad) -> Expr:
            acc = own.get(access.source)
            return access if acc is None else BufferLoad(acc.data, [lane])

        return replace_loads(substitute(value, self._at(point, lane, axis)), load)

    # -- neighbouring terms in a vector ----------------------------------------------------

    def _rows(self, points: Sequence[Values]) -> None:
        b, nest, axis, lanes = self.b, self.nest, self.plan.vector, self.b.lanes
        assert axis is not None
        chains = self.plan.vectors
        tiles = [
            [
                [self._accumulator(s.value, init, lanes) for s, init in self._pairs()]
                for _ in range(chains)
            ]
            for _ in points
        ]

        def run(at: Values, first: Expr, width: int, count: int) -> None:
            for chain in range(count):
                start = first + index(chain * width)
                for point, accs in zip(points, tiles):
                    self._update(point | at | {axis.var: start}, accs[chain], width)

        def steps(axes: Sequence[Axis], at: Values) -> None:
            if axes:
                with b.loop(simple(axes[0].extent)) as i:
                    steps(axes[1:], at | {axes[0].var: i})
                return
            extent, step = simple(axis.extent), lanes * chains
            with b.loop(extent // step) as i:
                run(at, b.let(i * step), lanes, chains)
            done = b.let(index(extent // step) * step)
            if chains > 1:
                with b.loop(extent % step // lanes) as i:
                    run(at, b.let(done + i * lanes), lanes, 1)
                done = b.let(index(extent // lanes) * lanes)
            width = lanes // 2
            while width:
                # Powers of two, largest first.
                rest = extent // width % 2
                if isinstance(rest, int):
                    if rest:
                        run(at, done, width, 1)
                        done = b.let(done + width)
                else:
                    with b.when(rest > 0):
                        start = b.let(index(extent // (2 * width)) * (2 * width))
                        run(at, start, width, 1)
                width //= 2

        steps([a for a in nest.reduction if a is not axis], {})
        for point, chained in zip(points, tiles):
            results = []
            for position, store in enumerate(nest.stores):
                join = combiner(store, nest)
                assert join is not None, "the plan admits separable reductions only"
                value = b.let(b.load(chained[0][position], 0, lanes))
                for accs in chained[1:]:
                    value = b.let(join(value, b.load(accs[position], 0, lanes)))
                scalar = b.workspace(1, str(store.value.ty.dtype), "sum")
                b.store(scalar, 0, across(b, value, join), 1)
                results.append(scalar)
            self._finish(point, results, 1)


@dataclass(frozen=True)
class _Piece:
    axis: Axis
    first: Expr
    size: int


@dataclass(frozen=True)
class _Span:
    """An axis in tiles of `large`, then, overlapping, of `small`, or of single elements."""

    axis: Axis
    large: int
    small: int
    count: Any
    whole: Any

    def cases(self, tile: Expr) -> list[tuple[Expr | None, Expr, int]]:
        """(condition, first element, size) of each kind of tile that may occur."""
        extent, whole, large, small = simple(self.axis.extent), self.whole, self.large, self.small
        last = index(extent) - small
        if large == small:
            inside = tirx.min(tile * large, last)
        else:
            inside = tile * large
        rest = tirx.min((tile - whole) * small + whole * large, last)
        if isinstance(extent, int):
            if extent < small:
                return [(None, ZERO, extent)]
            if extent % large == 0 or large == small:
                return [(None, inside, large)]
            if whole == 0:
                return [(None, rest, small)]
            return [(tile < whole, inside, large), (tile >= whole, rest, small)]
        fits = extent >= small
        if large == small:
            return [(fits, inside, large), (extent < small, tile, 1)]
        beyond = tirx.And(fits, tile >= whole)
        return [(tile < whole, inside, large), (beyond, rest, small), (extent < small, tile, 1)]


def _span(b: KernelBuilder, axis: Axis | None, large: int, small: int) -> _Span:
    assert axis is not None
    extent = simple(axis.extent)
    if isinstance(extent, int):
        if extent < small:
            return _Span(axis, large, small, 1, 0)
        whole = extent // large
        return _Span(axis, large, small, whole + -(-(extent - whole * large) // small), whole)
    whole = b.let(extent // large)
    rest = (extent - whole * large + (small - 1)) // small
    count = tirx.Select(extent >= small, whole + rest, extent)
    return _Span(axis, large, small, b.let(count), whole)
