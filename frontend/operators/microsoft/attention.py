"""MultiHeadAttention, of separate or packed tensors, with a cache of keys and values."""

from __future__ import annotations

from typing import Any

from tvm import relax, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, dims
from relaxc.frontend.operators.microsoft.heads import attend, join_heads, mask, split_heads
from relaxc.frontend.operators.microsoft.nodes import refuse_inputs, refuse_outputs


def multi_head_attention(ctx: NodeContext) -> relax.Expr:
    """MultiHeadAttention; masks of one or two further dimensions, and added biases."""
    refuse_inputs(ctx, past_sequence_length=8, cache_indirection=9)
    refuse_outputs(ctx, qk=3)
    bb, heads = ctx.bb, int(ctx.attrs["num_heads"])
    query, key, value = _projected(ctx, heads)
    past = dims(ctx.input(6))[2] if ctx.has(6) else tirx.IntImm("int64", 0)
    if ctx.has(6):
        key = bb.emit(relax.op.concat([ctx.input(6), key], 2))
        value = bb.emit(relax.op.concat([ctx.input(7), value], 2))
    size = dims(query)[3]
    scale = float(ctx.attrs.get("scale", 0.0)) or float(int(size)) ** -0.5
    added = _masks(ctx, query, key, past)
    if ctx.has(5):
        added.append(ctx.input(5))
    result = join_heads(ctx, attend(ctx, query, key, value, scale, added))
    if len(ctx.node.output) < 2:
        return result
    return relax.Tuple([bb.emit(result), key, value][: len(ctx.node.output)])


def _projected(ctx: NodeContext, heads: int) -> list[relax.Expr]:
    """Query, key and value as [batch, heads, sequence, size]."""
    bb, query = ctx.bb, ctx.input(0)
    if len(dims(query)) == 5:
        if ctx.has(3):
            raise ValueError("a bias of packed queries, keys and values is not supported")
        return _unpacked(ctx, query, 3)
    if not ctx.has(1):
        raise ValueError("keys are missing, and the queries are not packed with them")
    biases = _biases(ctx)
    parts: list[relax.Expr] = []
    for i in range(3):
        given = ctx.input(i) if ctx.has(i) else None
        if given is None:
            raise ValueError("keys packed with values must have 5 dimensions")
        if len(dims(given)) == 5:
            if biases:
                raise ValueError("a bias of packed keys and values is not supported")
            return [*parts, *_unpacked(ctx, given, 2)]
        if len(dims(given)) == 4:  # keys and values that have their heads already
            if biases:
                bias = bb.emit(relax.op.reshape(biases[i], relax.ShapeExpr([heads, 1, -1])))
                given = bb.emit(relax.op.add(given, bias))
            parts.append(given)
            continue
        if biases:
            given = bb.emit(relax.op.add(given, biases[i]))
        parts.append(split_heads(ctx, given, heads))
    return parts


def _biases(ctx: NodeContext) -> list[relax.Expr]:
    if not ctx.has(3):
        return []
    width = dims(ctx.input(0))[2]
    total = dims(ctx.input(3))[0]
    if not isinstance(width, tirx.IntImm) or not isinstance(total, tirx.IntImm):
        raise ValueError("the size of the bias must be known")
    parts = relax.op.split(ctx.input(3), [int(width), 2 * int(width)], 0)
    whole = ctx.bb.emit(parts)
    return [ctx.bb.emit(relax.TupleGetItem(whole, i)) for i in range(3)]


def _unpacked(ctx: NodeContext, packed: relax.Expr, count: int) -> list[relax.Expr]:
    """[batch, sequence, heads, count, size] apart."""
    bb = ctx.bb
    moved = bb.emit(relax.op.permute_dims(packed, [3, 0, 2, 1, 4]))
    whole = bb.emit(relax.op.split(moved, count, 0))
    return [
        bb.emit(relax.op.squeeze(bb.emit(relax.TupleGetItem(whole, i)), [0])) for i in range(count)
    ]


def _masks(ctx: NodeContext, query: relax.Expr, key: relax.Expr, past: Any) -> list[relax.Expr]:
    """What the padding mask and the direction hide, as numbers to add."""
    is_causal = bool(ctx.attrs.get("unidirectional", 0))
    if not ctx.has(4) and not is_causal:
        return []
    shape = [dims(query)[0], dims(query)[2], dims(key)[2]]
    given = [ctx.input(4)] if ctx.has(4) else []
    rank = len(dims(given[0])) if given else 0
    if given and rank not in (2, 3):
        raise ValueError(f"the input `key_padding_mask` of {rank} dimensions is not supported")

    def hidden(args: tuple[Any, ...], b: Any, s: Any, t: Any) -> Any:
        conditions = []
        if rank:
            padding = args[1]
            conditions.append((padding(b, t) if rank == 2 else padding(b, s, t)) == 0)
        if is_causal:
            conditions.append(t > args[0] + s)
        return tirx.any(*conditions)

    filler = float(ctx.attrs.get("mask_filter_value", -10000.0))
    return [mask(ctx, shape, hidden, filler, past, *given)]


CONVERTERS: dict[str, Converter] = {"MultiHeadAttention": multi_head_attention}
