"""TreeEnsemble and its predecessors of ai.onnx.ml: every tree is walked from its root to a leaf."""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import relax, tirx
from tvm.script import tirx as T

from relaxc.frontend.operators.base import Converter, NodeContext, constant, dims, dtype

_MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
_MEMBER, _LEAF = 6, 7
_AGGREGATES = ["AVERAGE", "SUM", "MIN", "MAX"]
_TRANSFORMS = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"]


@dataclass(frozen=True)
class Forest:
    """Trees as arrays.

    Attributes:
        table: (nodes, 6): mode, feature, node where true, node where false, whether NaN is true,
            and where the node's members begin; for a leaf, where its weights begin and end take
            the places of the nodes.
        splits: per node, what the feature is compared with.
        members: sets of numbers, each ended by NaN.
        targets, weights: of the leaves.
        roots: the first node of every tree.
        count: targets.
    """

    table: np.ndarray
    splits: np.ndarray
    members: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    roots: np.ndarray
    count: int

    def arrays(self, kind: str) -> list[np.ndarray]:
        """What the loop nest reads."""
        integers = (self.table, self.targets, self.roots)
        table, targets, roots = (np.asarray(a, np.int64) for a in integers)
        numbers = (self.splits, self.members, self.weights)
        splits, members, weights = (np.asarray(a, kind) for a in numbers)
        # Empty arrays have no place in memory.
        members = members if members.size else np.full(1, np.nan, kind)
        return [table, splits, members, targets, weights, roots]


def tree_ensemble(ctx: NodeContext) -> relax.Expr:
    """TreeEnsemble of sums, averages, minima or maxima, with set membership."""
    forest = _forest(ctx.attrs)
    aggregate = int(ctx.attrs.get("aggregate_function", 1))
    result = emit_forest(ctx, ctx.input(0), forest, _AGGREGATES[aggregate])
    return transformed(ctx, result, _TRANSFORMS[int(ctx.attrs.get("post_transform", 0))])


def _forest(attrs: dict[str, Any]) -> Forest:
    modes = numpy_helper.to_array(attrs["nodes_modes"]).astype(np.int64)
    nodes = len(modes)
    leaves = len(attrs["leaf_targetids"])
    weights = numpy_helper.to_array(attrs["leaf_weights"])
    table = np.zeros((nodes + leaves, 6), np.int64)
    table[:nodes, 0] = modes
    table[:nodes, 1] = attrs["nodes_featureids"]
    for column, side in ((2, "true"), (3, "false")):
        ids = np.array(attrs[f"nodes_{side}nodeids"])
        table[:nodes, column] = ids + nodes * np.array(attrs[f"nodes_{side}leafs"])
    table[:nodes, 4] = attrs.get("nodes_missing_value_tracks_true") or 0
    given = attrs.get("membership_values")
    members = np.zeros(0) if given is None else numpy_helper.to_array(given)
    ends = np.flatnonzero(np.isnan(members))
    table[:nodes, 5][modes == _MEMBER] = [0, *(ends[:-1] + 1)] if len(ends) else []
    table[nodes:, 0] = _LEAF
    table[nodes:, 2] = np.arange(leaves)
    table[nodes:, 3] = np.arange(leaves) + 1
    splits = np.zeros(nodes + leaves)
    splits[:nodes] = numpy_helper.to_array(attrs["nodes_splits"])
    # A tree that is a single leaf has a node whose branches are both that leaf.
    roots = np.array(attrs["tree_roots"])
    targets = np.array(attrs["leaf_targetids"])
    return Forest(table, splits, members, targets, weights, roots, int(attrs["n_targets"]))


def old_forest(attrs: dict[str, Any], leaf: str, count: int) -> Forest:
    """The forest of TreeEnsembleRegressor and TreeEnsembleClassifier.

    Args:
        attrs: of the node.
        leaf: `target` or `class`.
        count: targets or classes.
    """
    keys = list(zip(attrs["nodes_treeids"], attrs["nodes_nodeids"]))
    index = {key: i for i, key in enumerate(keys)}
    table = np.zeros((len(keys), 6), np.int64)
    for i, (tree, _) in enumerate(keys):
        mode = attrs["nodes_modes"][i]
        name = mode.decode() if isinstance(mode, bytes) else str(mode)
        table[i, 0] = _LEAF if name == "LEAF" else _MODES.index(name)
        if name != "LEAF":
            table[i, 1] = attrs["nodes_featureids"][i]
            table[i, 2] = index[tree, attrs["nodes_truenodeids"][i]]
            table[i, 3] = index[tree, attrs["nodes_falsenodeids"][i]]
    missing = attrs.get("nodes_missing_value_tracks_true")
    if missing:
        table[:, 4] = missing
    owners = np.array(
        [index[key] for key in zip(attrs[f"{leaf}_treeids"], attrs[f"{leaf}_nodeids"])]
    )
    order = np.argsort(owners, kind="stable")
    for node in np.flatnonzero(table[:, 0] == _LEAF):
        table[node, 2:4] = np.searchsorted(owners[order], [node, node + 1])
    roots = [next(i for i, key in enumerate(keys) if key[0] == t) for t in dict(keys)]
    splits = _numbers(attrs, "nodes_values")
    weights = _numbers(attrs, f"{leaf}_weights")[order]
    targets = np.array(attrs[f"{leaf}_ids"])[order]
    return Forest(table, splits, np.zeros(0), targets, weights, np.array(roots), count)


def _numbers(attrs: dict[str, Any], name: str) -> np.ndarray:
    given = attrs.get(f"{name}_as_tensor")
    return np.array(attrs[name]) if given is None else numpy_helper.to_array(given)


def emit_forest(
    ctx: NodeContext, x: relax.Expr, forest: Forest, aggregate: str, base: Sequence[float] = ()
) -> relax.Expr:
    """(rows, targets): the aggregated weights of the leaves, plus `base`."""
    kind = dtype(x)
    if kind not in ("float32", "float64"):
        kind, x = "float32", ctx.bb.emit(relax.op.astype(x, "float32"))
    arrays = forest.arrays(kind)
    func = _walk(dims(x), [a.shape for a in arrays], forest.count, kind, aggregate)
    gvar = ctx.bb.add_func(func, "trees")
    result = relax.TensorType([dims(x)[0], forest.count], kind)
    done = ctx.bb.emit(relax.call_tir(gvar, [x, *(constant(a) for a in arrays)], result))
    if len(base):
        done = ctx.bb.emit(relax.op.add(done, constant(np.array(base, kind))))
    return done


def _walk(
    shape: Sequence[Any], sizes: Sequence[Any], count: int, kind: str, aggregate: str
) -> tirx.PrimFunc:
    rows, columns = shape
    nodes, _, members, leaves, _, trees = (s[0] for s in sizes)
    is_extreme = aggregate in ("MIN", "MAX")
    pick = tirx.min if aggregate == "MIN" else tirx.max
    share = trees if aggregate == "AVERAGE" else 1

    @T.prim_func(private=True)
    def walk(
        x: T.Buffer((rows, columns), kind),
        table: T.Buffer((nodes, 6), "int64"),
        splits: T.Buffer((nodes,), kind),
        sets: T.Buffer((members,), kind),
        targets: T.Buffer((leaves,), "int64"),
        weights: T.Buffer((leaves,), kind),
        roots: T.Buffer((trees,), "int64"),
        y: T.Buffer((rows, count), kind),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        at = T.alloc_buffer((1,), "int64")
        k = T.alloc_buffer((1,), "int64")
        is_true = T.alloc_buffer((1,), "int32")
        seen = T.alloc_buffer((count,), "int32")
        for n in range(rows):
            for t in range(count):
                y[n, t] = T.Cast(kind, 0)
                seen[t] = 0
            for tree in range(trees):
                at[0] = roots[tree]
                while table[at[0], 0] != T.int64(7):
                    is_true[0] = 0
                    if table[at[0], 0] == T.int64(6):
                        k[0] = table[at[0], 5]
                        while not T.isnan(sets[k[0]]):
                            if sets[k[0]] == x[n, table[at[0], 1]]:
                                is_true[0] = 1
                            k[0] = k[0] + T.int64(1)
                    else:
                        is_true[0] = _compared(
                            table[at[0], 0], x[n, table[at[0], 1]], splits[at[0]]
                        )
                    if T.And(table[at[0], 4] > T.int64(0), T.isnan(x[n, table[at[0], 1]])):
                        is_true[0] = 1
                    if is_true[0] > 0:
                        at[0] = table[at[0], 2]
                    else:
                        at[0] = table[at[0], 3]
                k[0] = table[at[0], 2]
                while k[0] < table[at[0], 3]:
                    if T.bool(is_extreme):
                        if seen[targets[k[0]]] > 0:
                            y[n, targets[k[0]]] = pick(y[n, targets[k[0]]], weights[k[0]])
                        else:
                            y[n, targets[k[0]]] = weights[k[0]]
                        seen[targets[k[0]]] = 1
                    else:
                        y[n, targets[k[0]]] = y[n, targets[k[0]]] + weights[k[0]]
                    k[0] = k[0] + T.int64(1)
            for t in range(count):
                y[n, t] = y[n, t] / T.Cast(kind, share)

    return walk


def _compared(mode: Any, x: Any, split: Any) -> Any:
    results = [x <= split, x < split, x >= split, x > split, x == split, x != split]
    value: Any = tirx.const(False, "bool")
    for i, result in enumerate(results):
        value = tirx.Select(mode == i, result, value)
    return value.astype("int32")


def transformed(ctx: NodeContext, scores: relax.Expr, transform: str) -> relax.Expr:
    """Scores after `post_transform`.

    Raises:
        ValueError: the transform is not supported.
    """
    if transform == "NONE":
        return scores
    if transform == "LOGISTIC":
        return ctx.bb.emit(relax.op.sigmoid(scores))
    if transform == "SOFTMAX":
        return ctx.bb.emit(relax.op.nn.softmax(scores, -1))
    raise ValueError(f"`post_transform` = `{transform}` is not supported")


def tree_ensemble_regressor(ctx: NodeContext) -> relax.Expr:
    """TreeEnsembleRegressor."""
    count = int(ctx.attrs.get("n_targets", 1))
    forest = old_forest(ctx.attrs, "target", count)
    aggregate = ctx.text("aggregate_function", "SUM")
    base = list(ctx.attrs.get("base_values") or [])
    scores = emit_forest(ctx, ctx.input(0), forest, aggregate, base)
    if dtype(scores) != "float32":  # of doubles, too
        scores = ctx.bb.emit(relax.op.astype(scores, "float32"))
    return transformed(ctx, scores, ctx.text("post_transform", "NONE"))


CONVERTERS: dict[str, Converter] = {
    "ai.onnx.ml::TreeEnsemble": tree_ensemble,
    "ai.onnx.ml::TreeEnsembleRegressor": tree_ensemble_regressor,
}
