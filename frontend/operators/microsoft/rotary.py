"""Rotary position embeddings from tables of cosines and sines."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.indexing import gather
from relaxc.frontend.operators.microsoft.heads import join_heads, split_heads
from relaxc.frontend.operators.microsoft.nodes import refuse_attributes, standard_node


def rotated(
    ctx: NodeContext,
    x: relax.Expr,
    positions: relax.Expr,
    tables: tuple[relax.Expr, relax.Expr],
    is_interleaved: bool,
) -> relax.Expr:
    """Rotate [batch, heads, sequence, size] by int64 positions of [batch or 1, sequence].

    Pairs are neighbours if interleaved, else halves of the rotated columns; the tables say how
    many columns that are, and columns beyond stay.
    """
    half = dims(tables[0])[1]
    rows = [
        ctx.bb.emit(gather(standard_node(ctx, "Gather", [table, positions], axis=0)))
        for table in tables
    ]

    def compute(x: te.Tensor, cos: te.Tensor, sin: te.Tensor) -> te.Tensor:
        def element(b: Any, n: Any, s: Any, k: Any) -> Any:
            row = 0 if _is_one(cos.shape[0]) else b
            pair = tirx.floordiv(k, 2) if is_interleaved else tirx.floormod(k, half)
            is_first = tirx.floormod(k, 2) == 0 if is_interleaved else k < half
            step = tirx.IntImm("int64", 1) if is_interleaved else half
            # Beyond the rotated columns, indices must stay inside of the tables and the row.
            inside = k < 2 * half
            pair = tirx.Select(inside, pair, tirx.IntImm("int64", 0))
            other = tirx.Select(inside, tirx.Select(is_first, k + step, k - step), k)
            c, t = cos(row, s, pair), sin(row, s, pair)
            here, there = x(b, n, s, k), x(b, n, s, other)
            turned = tirx.Select(is_first, here * c - there * t, here * c + there * t)
            return tirx.Select(inside, turned, here)

        return te.compute(x.shape, element, name="rotate")

    return ctx.emit_te(compute, x, *rows, name="rotary")


def _is_one(dim: Any) -> bool:
    return isinstance(dim, tirx.IntImm) and int(dim) == 1


def rotary_embedding(ctx: NodeContext) -> relax.Expr:
    """RotaryEmbedding of [batch, sequence, hidden] or [batch, heads, sequence, size]."""
    refuse_attributes(ctx, scale=1.0, is_packed_batching=0)
    x, positions, bb = ctx.input(0), ctx.input(1), ctx.bb
    is_flat = len(dims(x)) == 3
    columns = int(ctx.attrs.get("rotary_embedding_dim", 0))
    heads = int(ctx.attrs.get("num_heads", 0))
    if columns and not heads:
        raise ValueError("`rotary_embedding_dim` needs `num_heads`")
    half = dims(ctx.input(2))[1]
    if not isinstance(half, tirx.IntImm):
        raise ValueError("the width of the cosine table must be known")
    if is_flat:
        width = dims(x)[2]
        if not isinstance(width, tirx.IntImm):
            raise ValueError("the hidden size must be known")
        x = split_heads(ctx, x, heads or int(width) // (2 * int(half)))
    length = dims(x)[2]
    if len(dims(positions)) == 1:
        # One number: the first position of every row.
        counted = bb.emit(relax.op.arange(length, dtype="int64"))
        positions = bb.emit(relax.op.expand_dims(bb.emit(relax.op.add(positions, counted)), [0]))
    tables = (ctx.input(2), ctx.input(3))
    kind = dtype(x)
    if kind == "float16":
        x = bb.emit(relax.op.astype(x, "float32"))
        tables = (
            bb.emit(relax.op.astype(tables[0], "float32")),
            bb.emit(relax.op.astype(tables[1], "float32")),
        )
    result = rotated(ctx, x, positions, tables, bool(ctx.attrs.get("interleaved", 0)))
    if kind == "float16":
        result = bb.emit(relax.op.astype(result, kind))
    return join_heads(ctx, result) if is_flat else result


CONVERTERS: dict[str, Converter] = {"RotaryEmbedding": rotary_embedding}
