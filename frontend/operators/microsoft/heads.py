"""Tensors of attention heads: split off, repeated, masked and multiplied."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from relaxc.frontend.operators.base import NodeContext, dims, dtype
from relaxc.frontend.shape_values import Element


def split_heads(ctx: NodeContext, value: relax.Expr, heads: int) -> relax.Expr:
    """[batch, sequence, heads * size] as [batch, heads, sequence, size]."""
    batch, length, width = dims(value)
    if not isinstance(width, tirx.IntImm) or int(width) % heads:
        raise ValueError(f"{width} columns cannot be split into {heads} heads")
    shape = relax.ShapeExpr([batch, length, heads, int(width) // heads])
    return ctx.bb.emit(
        relax.op.permute_dims(ctx.bb.emit(relax.op.reshape(value, shape)), [0, 2, 1, 3])
    )


def join_heads(ctx: NodeContext, value: relax.Expr) -> relax.Expr:
    """The inverse of `split_heads`."""
    batch, heads, length, size = dims(value)
    moved = ctx.bb.emit(relax.op.permute_dims(value, [0, 2, 1, 3]))
    return relax.op.reshape(moved, relax.ShapeExpr([batch, length, heads * size]))


def repeat_heads(ctx: NodeContext, value: relax.Expr, times: int) -> relax.Expr:
    """Every head `times` times in a row."""
    if times == 1:
        return value
    batch, heads, length, size = dims(value)
    wide = ctx.bb.emit(relax.op.expand_dims(value, [2]))
    wide = ctx.bb.emit(
        relax.op.broadcast_to(wide, relax.ShapeExpr([batch, heads, times, length, size]))
    )
    return ctx.bb.emit(
        relax.op.reshape(wide, relax.ShapeExpr([batch, heads * times, length, size]))
    )


def attend(
    ctx: NodeContext,
    query: relax.Expr,
    key: relax.Expr,
    value: relax.Expr,
    scale: float,
    added: list[relax.Expr],
    softcap: float = 0.0,
) -> relax.Expr:
    """softmax(query key^T * scale + added) value, all of [batch, heads, sequence, size]."""
    bb, kind = ctx.bb, dtype(query)
    if kind != "float32":
        query, key, value = (bb.emit(relax.op.astype(v, "float32")) for v in (query, key, value))
    turned = bb.emit(relax.op.permute_dims(key, [0, 1, 3, 2]))
    scores = bb.emit(relax.op.matmul(query, turned))
    scores = bb.emit(relax.op.multiply(scores, relax.const(scale, "float32")))
    if softcap:
        cap = relax.const(softcap, "float32")
        bounded = bb.emit(relax.op.tanh(bb.emit(relax.op.divide(scores, cap))))
        scores = bb.emit(relax.op.multiply(bounded, cap))
    for term in added:
        if dtype(term) != "float32":
            term = bb.emit(relax.op.astype(term, "float32"))
        scores = bb.emit(relax.op.add(scores, term))
    weights = bb.emit(relax.op.nn.softmax(scores, -1))
    result = bb.emit(relax.op.matmul(weights, value))
    return result if kind == "float32" else bb.emit(relax.op.astype(result, kind))


def mask(
    ctx: NodeContext, shape: list[Element], hidden: Any, filler: float, *args: Any
) -> relax.Expr:
    """What to add to scores: `filler` where `hidden(args, batch, query, key)` holds, else 0.

    Args:
        ctx: the node.
        shape: batch, queries and keys; the result has an axis of 1 for the heads.
        hidden: gets the tensors among `args` as TE tensors, dimensions as expressions.
        filler: a large negative number.
        args: tensors and dimensions.
    """
    batch, queries, keys = shape

    def compute(sizes: list[Any], *given: Any) -> te.Tensor:
        def element(b: Any, _head: Any, s: Any, t: Any) -> Any:
            numbers = [tirx.const(v, "float32") for v in (filler, 0.0)]
            return tirx.Select(hidden(given, b, s, t), *numbers)

        return te.compute([sizes[0], 1, sizes[1], sizes[2]], element, name="mask")

    return ctx.emit_te(compute, [batch, queries, keys], *args, name="attention_mask")
