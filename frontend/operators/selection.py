"""TopK, OneHot and EyeLike, by counts that may be computed when the model runs."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from relaxc.frontend.element_types import carrier
from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.indexing import valid_indices
from relaxc.frontend.operators.vectors import prefix
from relaxc.frontend.shape_values import Element


def top_k(ctx: NodeContext) -> relax.Expr:
    """TopK: of equal elements, the first counts as the larger."""
    data = ctx.input(0)
    shape = dims(data)
    axis = int(ctx.attrs.get("axis", -1)) % len(shape)
    (count,) = ctx.sizes(1)
    key = data
    if dtype(data).startswith("uint") or dtype(data) in ("float16", "bfloat16", "int8", "int16"):
        wide = "float32" if "float" in dtype(data) else "int64"
        key = ctx.bb.emit(relax.op.astype(data, wide))
    descending = bool(ctx.attrs.get("largest", 1))
    known = isinstance(count, tirx.IntImm) and isinstance(shape[axis], tirx.IntImm)
    if known and 0 < int(count) <= int(shape[axis]):
        best = relax.op.topk(key, int(count), axis, "indices", descending, "int64")
        indices = ctx.bb.emit(best)
    else:
        order = ctx.bb.emit(relax.op.argsort(key, axis, descending, "int64"))
        indices = _first(ctx, order, axis, count)

    def compute(x: te.Tensor, at: te.Tensor) -> te.Tensor:
        return te.compute(
            at.shape, lambda *i: x(*i[:axis], at(*i), *i[axis + 1 :]), name="top_values"
        )

    return relax.Tuple([ctx.emit_te(compute, data, indices, name="top_values"), indices])


def _first(ctx: NodeContext, order: relax.Expr, axis: int, count: Element) -> relax.Expr:
    """As many of an axis, if it has so many: what is not known now is checked in each run."""
    size = dims(order)[axis]
    if isinstance(count, tirx.IntImm) and isinstance(size, tirx.IntImm):
        if int(count) > int(size):
            raise ValueError(f"k is {int(count)}, and axis {axis} has {int(size)} elements")
        return prefix(ctx, order, axis, 0, count)
    wanted = ctx.bb.emit(relax.op.shape_to_tensor(relax.ShapeExpr([count])))
    checked = valid_indices(ctx, wanted, [size + 1], axis)

    def compute(x: te.Tensor, checked: te.Tensor, count: Any) -> te.Tensor:
        shape = [*list(x.shape)[:axis], count, *list(x.shape)[axis + 1 :]]

        def element(*i: Any) -> Any:  # reads what was checked, so that it is checked first
            return x(*i[:axis], i[axis] + (checked(0) - count), *i[axis + 1 :])

        return te.compute(shape, element, name="first")

    return ctx.emit_te(compute, order, checked, count, name="first")


def one_hot(ctx: NodeContext) -> relax.Expr:
    """OneHot: indices outside of the depth give rows of the off value."""
    indices, values = ctx.input(0), ctx.input(2)
    (depth,) = ctx.sizes(1)
    rank = len(dims(indices))
    axis = int(ctx.attrs.get("axis", -1)) % (rank + 1)
    kind = dtype(values)

    def compute(index: te.Tensor, values: te.Tensor, depth: Any) -> te.Tensor:
        shape = [*list(index.shape)[:axis], depth, *list(index.shape)[axis:]]

        def element(*i: Any) -> Any:
            at = index(*i[:axis], *i[axis + 1 :]).astype("int64")
            wrapped = tirx.Select(at < 0, at + depth, at)
            return tirx.Select(wrapped == i[axis], values[1], values[0]).astype(kind)

        return te.compute(shape, element, name="one_hot")

    return ctx.emit_te(compute, indices, values, depth)


def eye_like(ctx: NodeContext) -> relax.Expr:
    """EyeLike: ones on a diagonal."""
    data, k = ctx.input(0), int(ctx.attrs.get("k", 0))
    kind = carrier(int(ctx.attrs["dtype"])) if "dtype" in ctx.attrs else dtype(data)

    def compute(x: te.Tensor) -> te.Tensor:
        one, zero = tirx.const(1, kind), tirx.const(0, kind)
        return te.compute(x.shape, lambda i, j: tirx.Select(j - i == k, one, zero), name="eye")

    return ctx.emit_te(compute, data)


def reverse_sequence(ctx: NodeContext) -> relax.Expr:
    """ReverseSequence: the first elements of every batch, backward."""
    time, batch = int(ctx.attrs.get("time_axis", 0)), int(ctx.attrs.get("batch_axis", 1))

    def compute(x: te.Tensor, lengths: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            size = lengths[i[batch]].astype("int64")
            at = tirx.Select(i[time] < size, size - 1 - i[time], i[time])
            return x(*i[:time], at, *i[time + 1 :])

        return te.compute(x.shape, element, name="reverse_sequence")

    return ctx.emit_te(compute, ctx.input(0), ctx.input(1))


CONVERTERS: dict[str, Converter] = {
    "EyeLike": eye_like,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "TopK": top_k,
}
