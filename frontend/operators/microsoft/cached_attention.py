"""GroupQueryAttention: causal, over a cache that each row has filled to a length of its own."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, dims
from relaxc.frontend.operators.microsoft.heads import (
    attend,
    join_heads,
    mask,
    repeat_heads,
    split_heads,
)
from relaxc.frontend.operators.microsoft.nodes import (
    refuse_attributes,
    refuse_inputs,
    refuse_outputs,
)
from relaxc.frontend.operators.microsoft.rotary import rotated
from relaxc.frontend.operators.vectors import runtime_shape
from relaxc.frontend.shape_values import Element

_HIDDEN = -1e30


def group_query_attention(ctx: NodeContext) -> relax.Expr:
    """GroupQueryAttention, with rotation, a window and a cap of the scores."""
    refuse_attributes(
        ctx,
        k_quant_type="NONE",
        v_quant_type="NONE",
        qk_output=0,
        causal=1,
        kv_cache_bit_width=0,
        sliding_window_cache=0,
    )
    if int(ctx.attrs.get("smooth_softmax", 0)) > 0:
        raise ValueError("the attribute `smooth_softmax` is not supported")
    refuse_inputs(ctx, head_sink=11, k_scale=12, v_scale=13, q_norm_weight=14, k_norm_weight=15)
    refuse_outputs(ctx, output_qk=3)
    heads, groups = int(ctx.attrs["num_heads"]), int(ctx.attrs["kv_num_heads"])
    query, key, value = _projected(ctx, heads, groups)
    batch, _, length, size = dims(query)
    filled = _filled(ctx, length)
    if ctx.attrs.get("do_rotary", 0):
        query, key = (_rotated(ctx, x, filled) for x in (query, key))
    total = _total(ctx)
    keys = _cached(ctx, 3, key, filled, total)
    values = _cached(ctx, 4, value, filled, total)
    window = int(ctx.attrs.get("local_window_size", -1))

    def hidden(args: tuple[Any, ...], b: Any, s: Any, t: Any) -> Any:
        here = args[0](b) + s
        conditions = [t > here]
        if window > 0:
            conditions.append(t <= here - window)
        return tirx.any(*conditions)

    added = [mask(ctx, [batch, length, dims(keys)[2]], hidden, _HIDDEN, filled)]
    if ctx.has(10):
        added.append(_widened(ctx, ctx.input(10), dims(keys)[2]))
    scale = float(ctx.attrs.get("scale", 0.0)) or float(int(size)) ** -0.5
    repeated = [repeat_heads(ctx, x, heads // groups) for x in (keys, values)]
    softcap = float(ctx.attrs.get("softcap", 0.0))
    result = join_heads(ctx, attend(ctx, query, repeated[0], repeated[1], scale, added, softcap))
    if len(ctx.node.output) < 2:
        return result
    return relax.Tuple([ctx.bb.emit(result), keys, values][: len(ctx.node.output)])


def _projected(ctx: NodeContext, heads: int, groups: int) -> list[relax.Expr]:
    query = ctx.input(0)
    if ctx.has(1):
        parts = [query, ctx.input(1), ctx.input(2)]
    else:
        width = dims(query)[2]
        if not isinstance(width, tirx.IntImm):
            raise ValueError("the width of packed queries, keys and values must be known")
        size = int(width) // (heads + 2 * groups)
        cuts = [heads * size, (heads + groups) * size]
        whole = ctx.bb.emit(relax.op.split(query, cuts, 2))
        parts = [ctx.bb.emit(relax.TupleGetItem(whole, i)) for i in range(3)]
    return [split_heads(ctx, x, n) for x, n in zip(parts, (heads, groups, groups))]


def _filled(ctx: NodeContext, length: Element) -> relax.Expr:
    """How many positions of the cache each row has filled before; int64 of [batch].

    A prompt, which is as long as the whole, starts from nothing, even where a row is padded.
    """

    def compute(last: te.Tensor, total: te.Tensor, length: Any) -> te.Tensor:
        whole = total(*(0 for _ in total.shape)).astype("int64")

        def element(b: Any) -> Any:
            before = last(*([b] + [0] * (len(last.shape) - 1))).astype("int64") + 1 - length
            zero = tirx.IntImm("int64", 0)
            return tirx.Select(whole == length, zero, tirx.max(before, zero))

        return te.compute([last.shape[0]], element, name="filled")

    return ctx.emit_te(compute, ctx.input(5), ctx.input(6), length, name="filled")


def _total(ctx: NodeContext) -> Element:
    """Positions that the new cache holds: those of the old one, or more if they do not suffice."""

    def longest(total: te.Tensor, past: Any) -> list[Any]:
        return [tirx.max(total(*(0 for _ in total.shape)).astype("int64"), past)]

    past = dims(ctx.input(3))[2] if ctx.has(3) else tirx.IntImm("int64", 0)
    return runtime_shape(ctx, longest, ctx.input(6), past, name="cache_length")[0]


def _rotated(ctx: NodeContext, x: relax.Expr, filled: relax.Expr) -> relax.Expr:
    positions = ctx.input(9) if ctx.has(9) else _positions(ctx, filled, dims(x)[2])
    tables = (ctx.input(7), ctx.input(8))
    return rotated(ctx, x, positions, tables, bool(ctx.attrs.get("rotary_interleaved", 0)))


def _positions(ctx: NodeContext, filled: relax.Expr, length: Element) -> relax.Expr:
    def compute(filled: te.Tensor, length: Any) -> te.Tensor:
        shape = [filled.shape[0], length]
        return te.compute(shape, lambda b, s: filled(b) + s, name="positions")

    return ctx.emit_te(compute, filled, length, name="positions")


def _cached(
    ctx: NodeContext, index: int, new: relax.Expr, filled: relax.Expr, total: Element
) -> relax.Expr:
    """The cache with the new positions behind those that are filled; 0 further on."""
    past = [ctx.input(index)] if ctx.has(index) else []

    def compute(new: te.Tensor, filled: te.Tensor, total: Any, *past: te.Tensor) -> te.Tensor:
        def element(b: Any, n: Any, t: Any, k: Any) -> Any:
            at = t - filled(b)
            zero = tirx.const(0, new.dtype)
            fresh = tirx.all(at >= 0, at < new.shape[2])
            old = zero
            if past:
                inside = tirx.all(t < filled(b), t < past[0].shape[2])
                old = tirx.if_then_else(inside, past[0](b, n, t, k), zero)
            return tirx.if_then_else(fresh, new(b, n, at, k), old)

        shape = [new.shape[0], new.shape[1], total, new.shape[3]]
        return te.compute(shape, element, name="cache")

    return ctx.emit_te(compute, new, filled, total, *past, name="cache")


def _widened(ctx: NodeContext, bias: relax.Expr, total: Element) -> relax.Expr:
    """An attention bias, whose keys may be fewer than the cache holds."""

    def compute(bias: te.Tensor, total: Any) -> te.Tensor:
        def element(*i: Any) -> Any:
            inside = i[3] < bias.shape[3]
            return tirx.if_then_else(inside, bias(*i), tirx.const(0, bias.dtype))

        return te.compute([*list(bias.shape)[:3], total], element, name="bias")

    return ctx.emit_te(compute, bias, total, name="attention_bias")


CONVERTERS: dict[str, Converter] = {"GroupQueryAttention": group_query_attention}
