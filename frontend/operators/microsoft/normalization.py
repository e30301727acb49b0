"""Layer and RMS normalization of sums, and of embeddings."""

from __future__ import annotations

from tvm import relax

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.indexing import gather
from relaxc.frontend.operators.microsoft.nodes import refuse_outputs, standard_node


def _layer_norm(
    ctx: NodeContext, x: relax.Expr, gamma: relax.Expr, beta: relax.Expr | None
) -> relax.Expr:
    """Over the last axis."""
    zero = beta if beta is not None else ctx.bb.emit(relax.op.zeros_like(gamma))
    epsilon = float(ctx.attrs.get("epsilon", 1e-12))
    return relax.op.nn.layer_norm(x, gamma, zero, axes=[-1], epsilon=epsilon)


def _rms_norm(ctx: NodeContext, x: relax.Expr, gamma: relax.Expr, epsilon: float) -> relax.Expr:
    """Over the axes that `gamma` has, in single precision at least."""
    bb, kind = ctx.bb, dtype(x)
    if kind == "float32" and len(dims(gamma)) == 1:  # which has a kernel
        return relax.op.nn.rms_norm(x, gamma, axes=[-1], epsilon=epsilon)
    wide = x if kind in ("float32", "float64") else bb.emit(relax.op.astype(x, "float32"))
    axes = list(range(len(dims(x)) - len(dims(gamma)), len(dims(x))))
    square = bb.emit(relax.op.mean(bb.emit(relax.op.multiply(wide, wide)), axes, True))
    shifted = bb.emit(relax.op.add(square, relax.const(epsilon, dtype(wide))))
    result = bb.emit(relax.op.multiply(wide, bb.emit(relax.op.rsqrt(shifted))))
    if dtype(result) != kind:
        result = bb.emit(relax.op.astype(result, kind))
    return relax.op.multiply(result, gamma)


def simplified_layer_norm(ctx: NodeContext) -> relax.Expr:
    """SimplifiedLayerNormalization: the root mean square over the last axes."""
    refuse_outputs(ctx, inv_std_var=1)
    x, gamma = ctx.input(0), ctx.input(1)
    rank = len(dims(x))
    axis = int(ctx.attrs.get("axis", -1)) % rank
    if len(dims(gamma)) != rank - axis:
        raise ValueError("the scale must have the axes that are normalized")
    return _rms_norm(ctx, x, gamma, float(ctx.attrs.get("epsilon", 1e-5)))


def _skip(ctx: NodeContext, bias: int) -> relax.Expr:
    total = ctx.bb.emit(relax.op.add(ctx.input(0), ctx.input(1)))
    return ctx.bb.emit(relax.op.add(total, ctx.input(bias))) if ctx.has(bias) else total


def _with_sum(ctx: NodeContext, result: relax.Expr, total: relax.Expr) -> relax.Expr:
    """All outputs; those between the result and the sum are refused, if anyone asks for them."""
    if len(ctx.node.output) < 2:
        return result
    result = ctx.bb.emit(result)
    return relax.Tuple([result, result, result, total][: len(ctx.node.output)])


def skip_layer_norm(ctx: NodeContext) -> relax.Expr:
    """SkipLayerNormalization: input + skip + bias, normalized."""
    refuse_outputs(ctx, mean=1, inv_std_var=2)
    total = _skip(ctx, 4)
    beta = ctx.input(3) if ctx.has(3) else None
    return _with_sum(ctx, _layer_norm(ctx, total, ctx.input(2), beta), total)


def skip_simplified_layer_norm(ctx: NodeContext) -> relax.Expr:
    """SkipSimplifiedLayerNormalization: input + skip + bias, by the root mean square."""
    refuse_outputs(ctx, mean=1, inv_std_var=2)
    total = _skip(ctx, 3)
    epsilon = float(ctx.attrs.get("epsilon", 1e-12))
    return _with_sum(ctx, _rms_norm(ctx, total, ctx.input(2), epsilon), total)


def embed_layer_norm(ctx: NodeContext) -> relax.Expr:
    """EmbedLayerNormalization: the sum of word, position and segment vectors, normalized."""
    bb, ids = ctx.bb, ctx.input(0)

    def rows(table: int, index: relax.Expr) -> relax.Expr:
        node = standard_node(ctx, "Gather", [ctx.input(table), index], axis=0)
        return bb.emit(gather(node))

    total = rows(2, ids)
    if ctx.has(8):
        places = rows(3, ctx.input(8))
    else:
        # More tokens than the table has positions is an error, which Gather finds.
        places = rows(3, bb.emit(relax.op.arange(dims(ids)[1], dtype="int64")))
    total = bb.emit(relax.op.add(total, places))
    if ctx.has(1):
        if not ctx.has(4):
            raise ValueError("`segment_ids` need `segment_embedding`")
        total = bb.emit(relax.op.add(total, rows(4, ctx.input(1))))
    result = bb.emit(_layer_norm(ctx, total, ctx.input(5), ctx.input(6)))
    if len(ctx.node.output) < 2:
        return result
    return relax.Tuple([result, _mask_index(ctx, ids), total][: len(ctx.node.output)])


def _mask_index(ctx: NodeContext, ids: relax.Expr) -> relax.Expr:
    """How many tokens of each row count."""
    if ctx.has(7):
        mask = ctx.bb.emit(relax.op.astype(ctx.input(7), "int32"))
        return ctx.bb.emit(relax.op.sum(mask, [1]))
    return ctx.bb.emit(relax.op.zeros(relax.ShapeExpr([dims(ids)[0]]), "int32"))


CONVERTERS: dict[str, Converter] = {
    "EmbedLayerNormalization": embed_layer_norm,
    "SimplifiedLayerNormalization": simplified_layer_norm,
    "SkipLayerNormalization": skip_layer_norm,
    "SkipSimplifiedLayerNormalization": skip_simplified_layer_norm,
}
