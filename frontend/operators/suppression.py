"""NonMaxSuppression, as a loop nest that counts what it selects."""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.script import tirx as T

from relaxc.frontend.operators.base import Converter, NodeContext, constant, dims, runtime_sizes
from relaxc.frontend.operators.vectors import prefix


def non_max_suppression(ctx: NodeContext) -> relax.Expr:
    """NonMaxSuppression over every batch and class; the number of results is known at run time."""
    boxes, scores = ctx.input(0), ctx.input(1)
    batch, classes, count = dims(scores)

    def scalar(index: int, default: float, kind: str) -> relax.Expr:
        if not ctx.has(index):
            return constant(np.full(1, default, kind))
        return ctx.bb.emit(relax.op.reshape(ctx.input(index), [1]))

    limit = scalar(2, 0, "int64")
    overlap, least = scalar(3, 0, "float32"), scalar(4, -np.inf, "float32")
    func = _loops((batch, classes, count), bool(ctx.attrs.get("center_point_box", 0)))
    gvar = ctx.bb.add_func(func, "suppress")
    room = batch * classes * count
    results = [relax.TensorType([room, 3], "int64"), relax.TensorType([1], "int64")]
    call = relax.call_tir(gvar, [boxes, scores, limit, overlap, least], results)
    both = ctx.bb.emit(call)
    selected, found = (ctx.bb.emit(relax.TupleGetItem(both, i)) for i in range(2))
    (size,) = runtime_sizes(ctx.bb, found)
    return prefix(ctx, selected, 0, 0, size)


def _loops(shape: tuple[Any, Any, Any], is_centered: bool) -> tirx.PrimFunc:
    batch, classes, count = shape

    @T.prim_func(private=True)
    def suppress(
        boxes: T.Buffer((batch, count, 4), "float32"),
        scores: T.Buffer((batch, classes, count), "float32"),
        limit: T.Buffer((1,), "int64"),
        overlap: T.Buffer((1,), "float32"),
        least: T.Buffer((1,), "float32"),
        selected: T.Buffer((batch * classes * count, 3), "int64"),
        found: T.Buffer((1,), "int64"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        left = T.alloc_buffer((count,), "int64")
        size = T.alloc_buffer((1,), "int64")
        kept = T.alloc_buffer((1,), "int64")
        taken = T.alloc_buffer((1,), "int64")
        best = T.alloc_buffer((1,), "int64")
        found[0] = T.int64(0)
        for n in range(batch):
            for c in range(classes):
                # Few boxes score enough: only they are looked at again and again.
                size[0] = T.int64(0)
                for i in range(count):
                    if scores[n, c, i] > least[0]:
                        left[size[0]] = T.Cast("int64", i)
                        size[0] = size[0] + T.int64(1)
                taken[0] = T.int64(0)
                while tirx.all(size[0] > T.int64(0), taken[0] < limit[0]):
                    best[0] = left[0]
                    for i in range(size[0] - T.int64(1)):
                        if scores[n, c, left[i + 1]] > scores[n, c, best[0]]:
                            best[0] = left[i + 1]
                    selected[found[0], 0] = T.Cast("int64", n)
                    selected[found[0], 1] = T.Cast("int64", c)
                    selected[found[0], 2] = best[0]
                    found[0] = found[0] + T.int64(1)
                    taken[0] = taken[0] + T.int64(1)
                    kept[0] = T.int64(0)
                    for i in range(size[0]):
                        if left[i] != best[0]:
                            shared = _shared(boxes, n, best[0], left[i], is_centered)
                            if tirx.Not(shared > overlap[0]):
                                left[kept[0]] = left[i]
                                kept[0] = kept[0] + T.int64(1)
                    size[0] = kept[0]

    return suppress


def _corners(boxes: Any, n: Any, i: Any, is_centered: bool) -> list[Any]:
    a, b, c, d = (boxes[n, i, k] for k in range(4))
    if is_centered:
        return [a - c / 2, b - d / 2, a + c / 2, b + d / 2]
    return [tirx.min(a, c), tirx.min(b, d), tirx.max(a, c), tirx.max(b, d)]


def _shared(boxes: Any, n: Any, i: Any, j: Any, is_centered: bool) -> Any:
    """Intersection over union of two boxes."""
    a, b = _corners(boxes, n, i, is_centered), _corners(boxes, n, j, is_centered)
    zero = tirx.const(0, "float32")
    height = tirx.max(tirx.min(a[2], b[2]) - tirx.max(a[0], b[0]), zero)
    width = tirx.max(tirx.min(a[3], b[3]) - tirx.max(a[1], b[1]), zero)
    both = height * width
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return tirx.Select(total > zero, both / total, zero)


CONVERTERS: dict[str, Converter] = {"NonMaxSuppression": non_max_suppression}
