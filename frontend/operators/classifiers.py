"""Classifiers of ai.onnx.ml: the label of the best score, and the scores of all classes."""

from __future__ import annotations

import numpy as np
from tvm import relax

from relaxc.frontend.operators.base import Converter, NodeContext, constant, dtype
from relaxc.frontend.operators.trees import Forest, emit_forest, old_forest, transformed


def _labels(ctx: NodeContext, name: str) -> np.ndarray:
    listed = ctx.attrs.get(name)
    if not listed:
        raise ValueError("labels that are strings are not supported; export with integers")
    return np.array(listed, np.int64)


def _classified(ctx: NodeContext, labels: np.ndarray, scores: relax.Expr) -> relax.Expr:
    """Of one score per class: the best, as ONNX's reference has it.

    ONNX Runtime's trees take the second of two classes whenever anything speaks for it.
    """
    best = ctx.bb.emit(relax.op.argmax(scores, -1))
    label = ctx.bb.emit(relax.op.take(constant(labels), best, 0))
    transform = ctx.text("post_transform", "NONE")
    return relax.Tuple([label, transformed(ctx, scores, transform)])


def _decided(ctx: NodeContext, labels: np.ndarray, score: relax.Expr, is_share: bool) -> relax.Expr:
    """Of one score for the second of two classes.

    Args:
        ctx: the node.
        labels: of the two.
        score: a column.
        is_share: whether the score lies between 0 and 1, so that the other class has the rest.
    """
    bb, transform = ctx.bb, ctx.text("post_transform", "NONE")

    def number(value: float) -> relax.Expr:
        return constant(np.array(value, np.float32))

    is_second = bb.emit(relax.op.greater(score, number(0.5 if is_share else 0.0)))
    flat = bb.emit(relax.op.squeeze(is_second, [1]))
    first, second = (constant(labels[k : k + 1]) for k in range(2))
    label = bb.emit(relax.op.where(flat, second, first))
    if transform not in ("NONE", "LOGISTIC") or (is_share and transform != "NONE"):
        raise ValueError(f"`post_transform` = `{transform}` of two classes is not supported")
    # So does ONNX Runtime with every score of a linear model that it leaves as it is.
    if is_share or (transform == "NONE" and ctx.node.op_type == "LinearClassifier"):
        other = bb.emit(relax.op.subtract(number(1.0), score))
    else:
        other = bb.emit(relax.op.negative(score))
    both = bb.emit(relax.op.concat([other, score], 1))
    return relax.Tuple([label, transformed(ctx, both, transform)])


def linear_classifier(ctx: NodeContext) -> relax.Expr:
    """LinearClassifier with labels that are integers."""
    labels = _labels(ctx, "classlabels_ints")
    x = ctx.input(0)
    x = x if dtype(x) == "float32" else ctx.bb.emit(relax.op.astype(x, "float32"))
    intercepts = np.array(ctx.attrs.get("intercepts") or [0.0] * len(labels), np.float32)
    weights = np.array(ctx.attrs["coefficients"], np.float32).reshape(len(intercepts), -1)
    scores = ctx.bb.emit(relax.op.matmul(x, constant(np.ascontiguousarray(weights.T))))
    scores = ctx.bb.emit(relax.op.add(scores, constant(intercepts)))
    if len(intercepts) == 1 and len(labels) == 2:
        return _decided(ctx, labels, scores, is_share=False)
    if len(intercepts) != len(labels):
        raise ValueError(f"{len(intercepts)} scores for {len(labels)} classes are not supported")
    return _classified(ctx, labels, scores)


def tree_ensemble_classifier(ctx: NodeContext) -> relax.Expr:
    """TreeEnsembleClassifier with labels that are integers."""
    labels = _labels(ctx, "classlabels_int64s")
    forest = old_forest(ctx.attrs, "class", len(labels))
    base = list(ctx.attrs.get("base_values") or [])
    is_binary = len(labels) == 2 and len(set(forest.targets.tolist())) == 1
    if base and (is_binary or len(base) != len(labels)):
        raise ValueError(f"{len(base)} `base_values` for {len(labels)} classes are not supported")
    if not is_binary and not base:
        _require_all_scores(forest)
    scores = ctx.bb.emit(emit_forest(ctx, ctx.input(0), forest, "SUM", base))
    if dtype(scores) != "float32":
        scores = ctx.bb.emit(relax.op.astype(scores, "float32"))
    if not is_binary:
        return _classified(ctx, labels, scores)
    if forest.targets[0] != 0:
        raise ValueError("leaves that vote for the second of two classes alone are not supported")
    score = ctx.bb.emit(relax.op.strided_slice(scores, [1], [0], [1]))
    return _decided(ctx, labels, score, is_share=bool((forest.weights >= 0).all()))


def _require_all_scores(forest: Forest) -> None:
    """A class that no leaf has voted for cannot win, whatever the others have lost."""
    ends = forest.table[forest.table[:, 0] == 7][:, 2:4]
    is_full = all(len(set(forest.targets[a:b].tolist())) == forest.count for a, b in ends)
    if not is_full and not (forest.weights > 0).all():
        raise ValueError(
            "leaves without a weight for every class are supported if all are positive"
        )


CONVERTERS: dict[str, Converter] = {
    "ai.onnx.ml::LinearClassifier": linear_classifier,
    "ai.onnx.ml::TreeEnsembleClassifier": tree_ensemble_classifier,
}
