"""Loops over a grid: shared among threads where that pays, and where it cannot be known, asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from tvm import tirx
from tvm.tirx import ForKind

from relaxc.targets.llvm.kernels.builder import PARTS, Expr, Index, KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import simple

# Work, in simple operations, below which waking another thread costs more than it saves.
GRAIN = 1 << 15
# Iterations of the fused outer loops that are enough to balance threads.
_ENOUGH = 4 * PARTS

Body = Callable[[list[Expr], Expr], None]


def grid(
    b: KernelBuilder,
    extents: Sequence[Index],
    work: Index,
    body: Body,
    parallel: bool = True,
    ask: bool = True,
    finish: Callable[[], None] | None = None,
) -> None:
    """Write loops over a grid around a body.

    Args:
        b: the kernel.
        extents: the grid's extents, outermost first; ints or int64 expressions.
        work: operations in all, likewise.
        body: writes the innermost body, given the indices and the number of the task (below
            `PARTS`); called more than once if only the run can tell whether to share the work.
        parallel: whether threads may share the work.
        ask: whether to write the body twice, for much and for little work, if only the run knows.
        finish: writes what ends the work of a task.
    """
    extents, work = [simple(e) for e in extents], simple(work)

    def serial() -> None:
        _serial(b, extents, [], index(0), body)
        if finish is not None:
            finish()

    if not extents or not parallel or (isinstance(work, int) and work < GRAIN):
        serial()
    elif isinstance(work, int) or not ask:
        _parallel(b, extents, body, finish)
    else:
        enough = b.let(work >= GRAIN)
        with b.when(enough):
            _parallel(b, extents, body, finish)
        with b.when(tirx.Not(enough)):
            serial()


def _serial(
    b: KernelBuilder, extents: Sequence[Index], done: list[Expr], task: Expr, body: Body
) -> None:
    if not extents:
        body(done, task)
        return
    with b.loop(extents[0]) as i:
        _serial(b, extents[1:], [*done, i], task, body)


def _parallel(
    b: KernelBuilder, extents: Sequence[Index], body: Body, finish: Callable[[], None] | None
) -> None:
    fused, total = 0, 1
    while fused < len(extents) and (not isinstance(total, int) or total < _ENOUGH):
        total = total * extents[fused]
        fused += 1
    with tasks(b, total, finish) as (task, flat):
        done: list[Expr] = []
        for extent in reversed(extents[1:fused]):
            size = _positive(extent)
            done.append(b.let(tirx.truncmod(flat, size)))
            flat = b.let(tirx.truncdiv(flat, size))
        _serial(b, extents[fused:], [flat, *reversed(done)], task, body)


def _positive(extent: Index) -> Expr:
    """An extent to divide by: where it is 0, no iteration runs, but TVM refuses to divide by 0."""
    return index(extent) if isinstance(extent, int) else tirx.max(extent, index(1))


@contextlib.contextmanager
def tasks(
    b: KernelBuilder, extent: Index, finish: Callable[[], None] | None = None
) -> Iterator[tuple[Expr, Expr]]:
    """A loop in equal contiguous parts, one per task; yields the task's number and the index.

    `finish` writes what follows the last step of a task.
    """
    with b.loop(PARTS, ForKind.PARALLEL) as task:
        low = b.let(task * extent // PARTS)
        count = b.let((task + 1) * extent // PARTS - low)
        with b.loop(count) as i:
            yield task, b.let(low + i) if not isinstance(extent, int) else low + i
        if finish is not None:
            finish()
