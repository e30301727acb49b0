"""The positions of the best few elements of an axis, best first.

The best so far are kept in order. Most elements are not among them: one comparison with the last of
them says so. Others are put in their place, from the end. Elements come in order, so that of equal
ones the first stays in front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Expr, Index, KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import simple
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.loops import grid

# More are sorted: an element that belongs in front of all moves them by one.
_MOST = 512
# Elements per one that is kept, from which sorting all of them takes longer, whatever their order.
_LEAST_RATIO = 4
_TYPES = ("float32", "float64", "int32", "int64")


def lower_top_k(
    shape: Sequence[Any], axis: int, count: int, largest: bool, dtype: str, lanes: int
) -> Kernel | None:
    """The kernel; None where all elements should be sorted."""
    dims = [simple(d) for d in shape]
    size = dims[axis]
    if not isinstance(size, int) or dtype not in _TYPES or not 0 < count <= _MOST:
        return None
    if size < _LEAST_RATIO * count:
        return None
    outer, inner = math.prod(dims[:axis]), math.prod(dims[axis + 1 :])
    b = KernelBuilder("top_k", lanes)
    x = b.param("x", dims, dtype)
    y = b.param("y", [*dims[:axis], count, *dims[axis + 1 :]], "int64")

    def row(indices: list[Expr], _task: Expr) -> None:
        before, after = indices
        keys, places = b.workspace(count, dtype, "keys"), b.workspace(count, "int64", "places")

        def element(i: Index) -> Expr:
            return b.let(b.load(x, (before * size + i) * inner + after, 1))

        def is_better(value: Expr, at: Index) -> Expr:
            key = b.load(keys, at, 1)
            return value > key if largest else value < key

        def put(value: Expr, place: Index, last: Index) -> None:
            """An element in its place among the first `last`, which lie in front of `last`."""
            slot = b.register("int64", 1)
            slot.set(index(last))
            ahead = tirx.max(slot.get() - 1, index(0))
            with b.when(tirx.And(slot.get() > 0, is_better(value, ahead)), repeats=True):
                b.store(keys, slot.get(), b.load(keys, slot.get() - 1, 1), 1)
                b.store(places, slot.get(), b.load(places, slot.get() - 1, 1), 1)
                slot.set(slot.get() - 1)
            b.store(keys, slot.get(), value, 1)
            b.store(places, slot.get(), index(place), 1)

        with b.loop(count) as i:
            put(element(i), i, i)
        with b.loop(size - count) as i:
            place = b.let(i + count)
            value = element(place)
            with b.when(is_better(value, count - 1)):
                put(value, place, count - 1)
        with b.loop(count) as i:
            b.store(y, (before * count + i) * inner + after, b.load(places, i, 1), 1)

    grid(b, [outer, inner], outer * inner * size, row, ask=False)
    return Kernel("top_k", b.finish())
