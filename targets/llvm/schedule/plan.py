"""Which axes of a reduction fill vectors and register tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Expr
from relaxc.targets.llvm.schedule.access import operand_accesses, static_stride, stride
from relaxc.targets.llvm.schedule.nest import Axis, Nest, Store, analyzer_of, calls_of, loads_of

Kind = Literal["columns", "rows", "scalar"]


@dataclass(frozen=True)
class Plan:
    """How a reduction is computed.

    Attributes:
        kind: what a vector holds: neighbouring results, neighbouring terms, or there is none.
        vector: the axis along which vectors lie.
        tiled: the axis of which several steps share loads, if there is one.
        rows: steps of `tiled` in a tile.
        vectors: vectors of results in a tile; of independent partial sums in a row.
    """

    kind: Kind
    vector: Axis | None = None
    tiled: Axis | None = None
    rows: int = 1
    vectors: int = 1

    @property
    def is_tile(self) -> bool:
        """Whether several results are computed at once."""
        return self.rows * self.vectors > 4


def choose_plan(nest: Nest, lanes: int, registers: int) -> Plan:
    """Vectors along the results if they lie that way, else along the terms, else none."""
    if any("prim.if_then_else" in set(calls_of(s.value)) for s in nest.stores):
        return Plan("scalar")
    column = _column_axis(nest, lanes)
    row = _row_axis(nest, lanes)
    if column is not None and (row is None or column.size is None or column.size >= lanes):
        return _columns(nest, column, lanes, registers)
    if row is not None:
        return _rows(nest, row)
    if column is not None:
        return _columns(nest, column, lanes, registers)
    return Plan("scalar")


def _column_axis(nest: Nest, lanes: int) -> Axis | None:
    """The innermost axis of results along which operands are contiguous or constant."""
    analyzer = analyzer_of(nest.axes)
    for axis in reversed(nest.spatial):
        if axis.size is not None and axis.size < min(4, lanes):
            continue
        if any(static_stride(s.indices[0], axis, analyzer) != 1 for s in nest.finals):
            continue
        steps = {static_stride(at, axis, analyzer) for at in operand_accesses(nest)}
        if steps <= {0, 1} and 1 in steps:
            return axis
    return None


def _row_axis(nest: Nest, lanes: int) -> Axis | None:
    """The innermost axis of terms along which operands are contiguous or constant."""
    if any(combiner(s, nest) is None for s in nest.stores):
        return None
    analyzer = analyzer_of(nest.axes)
    for axis in reversed(nest.reduction):
        if axis.size is not None and axis.size < lanes:
            continue
        steps = {static_stride(at, axis, analyzer) for at in operand_accesses(nest)}
        if steps <= {0, 1} and 1 in steps:
            return axis
    return None


def _columns(nest: Nest, axis: Axis, lanes: int, registers: int) -> Plan:
    tiled = _shared_axis(nest, axis)
    narrow = axis.size is not None and axis.size < 2 * lanes
    if tiled is None:
        room = 4 if axis.size is None else max(1, min(4, axis.size // lanes))
        return Plan("columns", axis, None, 1, room)
    vectors = 1 if narrow else 2
    # One register broadcasts, `vectors` hold the shared operand.
    most = min((registers - 1 - vectors) // vectors, 8 if lanes == 16 and not narrow else 6)
    if narrow and lanes == 16:
        most = 12
    return Plan("columns", axis, tiled, _even(tiled, most), vectors)


def _rows(nest: Nest, axis: Axis) -> Plan:
    tiled = _shared_axis(nest, axis)
    if tiled is None or len(nest.stores) > 1:
        return Plan("rows", axis, None, 1, 4)
    return Plan("rows", axis, tiled, _even(tiled, 4), 1)


def _even(axis: Axis, most: int) -> int:
    """Tiles of equal size where the extent is known."""
    if not axis.size:  # unknown, or nothing at all
        return most
    return -(-axis.size // -(-axis.size // most))


def _shared_axis(nest: Nest, vector: Axis) -> Axis | None:
    """The longest axis of results along which a vector operand is the same."""
    analyzer = analyzer_of(nest.axes)
    found = []
    for axis in nest.spatial:
        if axis is vector:
            continue
        for at in operand_accesses(nest):
            along, across_it = static_stride(at, vector, analyzer), stride(at, axis, analyzer)
            is_same = isinstance(across_it, tirx.IntImm) and int(across_it) == 0
            if along == 1 and is_same:
                found.append(axis)
                break
    return max(found, key=lambda a: a.size or 1 << 20, default=None)


_COMBINERS: dict[type, Callable[[Expr, Expr], Expr]] = {
    tirx.Add: lambda x, y: x + y,
    tirx.Mul: lambda x, y: x * y,
    tirx.Max: tirx.max,
    tirx.Min: tirx.min,
}


def combiner(store: Store, nest: Nest) -> Callable[[Expr, Expr], Expr] | None:
    """How two partial results join: the operator between the result so far and the next term."""
    join = next((j for kind, j in _COMBINERS.items() if isinstance(store.value, kind)), None)
    if join is None:
        return None
    own = {s.buffer for s in nest.stores}

    def is_result(expr: Expr) -> bool:
        return hasattr(expr, "source") and expr.source.same_as(store.buffer)

    def is_free(expr: Expr) -> bool:
        return all(load.source not in own for load in loads_of(expr))

    left, right = store.value.a, store.value.b
    fits = (is_result(left) and is_free(right)) or (is_result(right) and is_free(left))
    return join if fits else None
