"""How much each channel matters.

| method | a channel's score, summed over the weights that have it |
|---|---|
| `l1`, `l2` | norm of its weights, relative to the weight's mean channel |
| `activation` | mean square of its values, relative to the mean channel, where it is read |
| `wanda` | norm of the weights that read it times norm of its values |
| `obs` | by how much the error of what reads it grows when it goes and the other channels make up for it as well as they can (Hassibi & Stork 1993, a channel at a time); the least one goes first, then the next |
| `fisher` | how far the model's outputs move when it goes, to second order (fisher.py) |

`l1` and `l2` look at weights only; the others need samples.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.prune.dependency import Dependencies, Group
from relaxc.passes.prune.products import Matrix, Product, picked, products_of
from relaxc.passes.prune.segments import Arrays, Run, bindings_of, piece

Importance = Literal["l1", "l2", "activation", "wanda", "obs", "fisher"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
Scores = dict[int, float]

# Rows of a Gram matrix per column: enough that it is no accident.
_ROWS = 24


def needs_samples(method: Importance) -> bool:
    """Whether a method looks at values."""
    return method not in ("l1", "l2")


def weight_importance(mod: IRModule, found: Dependencies, order: int) -> Scores:
    """Scores by norms of weights; `order` is 1 or 2."""
    scores: Scores = {c: 0.0 for group in found.groups for c in group.channels}
    for product in products_of(mod):
        weight = product.call.args[1].value.numpy()
        for axis, channels in enumerate(found.weights[product.var, 1]):
            if channels is None:
                continue
            apart = np.moveaxis(weight, axis, 0).reshape(len(channels), -1)
            norms = np.linalg.norm(apart, order, axis=1)
            norms = norms / max(float(norms.mean()), 1e-30)
            for channel, norm in zip(channels.tolist(), norms.tolist()):
                if channel in scores:
                    scores[channel] += norm
    return scores


def readers(mod: IRModule, found: Dependencies) -> list[Product]:
    """Products that read channels which may go."""
    return [p for p in products_of(mod) if found.weights[p.var, 1][p.axis] is not None]


def gram_matrices(
    mod: IRModule, products: list[Product], run: Run, samples: list[Arrays]
) -> dict[relax.Var, Matrix]:
    """For every product: the mean of the outer products of its left side's rows."""
    if not products:
        return {}
    data = list(dict.fromkeys(p.data for p in products))
    module, arguments = piece(mod, bindings_of(mod), data)
    order = [list(mod["main"].params).index(a) for a in arguments]
    sums: dict[relax.Var, Matrix] = {}
    rows: dict[relax.Var, int] = {}
    feeds = ([sample[i] for i in order] for sample in samples)
    for number, values in enumerate(run(module, feeds)):
        seen = dict(zip(data, values, strict=True))
        for product in products:
            value = seen[product.data]
            columns = len(product.matrix())
            wanted = -(-_ROWS * columns // len(samples))
            part = product.rows(value, picked(product.count(value), wanted, number))
            gram = (part.T @ part).astype(np.float64)
            sums[product.var] = sums.get(product.var, 0) + gram
            rows[product.var] = rows.get(product.var, 0) + len(part)
    return {var: total / rows[var] for var, total in sums.items()}


def sample_importance(
    mod: IRModule, found: Dependencies, method: Importance, grams: Mapping[relax.Var, Matrix]
) -> Scores:
    """Scores by what flows through the channels."""
    products = [p for p in products_of(mod) if p.var in grams]
    if method == "obs":
        scores: Scores = {}
        for group in found.groups:
            scores |= _eliminated(group, found, products, grams)
        return scores
    scores = {c: 0.0 for group in found.groups for c in group.channels}
    for product in products:
        channels = found.weights[product.var, 1][product.axis]
        assert channels is not None
        square = np.diag(grams[product.var]).reshape(len(channels), -1)
        if method == "activation":
            parts = square.mean(1)
        else:
            weight = np.abs(product.matrix()).reshape(*square.shape, -1)
            parts = (weight * np.sqrt(square)[:, :, None]).sum((1, 2))
        parts = parts / max(float(parts.mean()), 1e-30)
        for channel, part in zip(channels.tolist(), parts.tolist()):
            if channel in scores:
                scores[channel] += part
    return scores


class _Reader:
    """One product, while the channels of a group that it reads are eliminated one by one."""

    def __init__(self, product: Product, rows: list[np.ndarray], gram: Matrix) -> None:
        weight = product.matrix()
        self.energy = max(float(np.einsum("io,ij,jo->", weight, gram, weight)), 1e-30)
        damping = 0.01 * float(np.diag(gram).mean()) + 1e-12
        self.inverse = np.linalg.inv(gram + damping * np.eye(len(gram)))
        self.weight = weight.copy()
        self.rows = rows

    def loss(self, channel: int) -> float:
        """How much of the result's energy goes with a channel."""
        rows = self.rows[channel]
        weight = self.weight[rows]
        solved = np.linalg.solve(self.inverse[np.ix_(rows, rows)], weight)
        return float((weight * solved).sum()) / self.energy

    def eliminate(self, channel: int) -> None:
        """Take a channel out, and let the others make up for it."""
        rows = self.rows[channel]
        step = np.linalg.solve(self.inverse[np.ix_(rows, rows)], self.inverse[rows])
        self.weight -= step.T @ self.weight[rows]
        self.inverse -= self.inverse[:, rows] @ step


def _eliminated(
    group: Group, found: Dependencies, products: list[Product], grams: Mapping[relax.Var, Matrix]
) -> Scores:
    """Scores of a group: what each channel costs when its turn comes, never less than before."""
    readers = []
    for product in products:
        axis = found.weights[product.var, 1][product.axis]
        if axis is None or not np.isin(axis, group.channels).any():
            continue
        taps = np.arange(product.taps)
        indices = [np.flatnonzero(axis == channel) for channel in group.channels]
        rows = [(i[:, None] * product.taps + taps).reshape(-1) for i in indices]
        readers.append(_Reader(product, rows, grams[product.var]))
    left = list(range(len(group.channels)))
    scores: Scores = {}
    highest = 0.0
    # Far from the least, scores change little: looking at the few least again is enough.
    losses = {c: sum(r.loss(c) for r in readers) for c in left}
    while left:
        for channel in sorted(left, key=losses.__getitem__)[:8]:
            losses[channel] = sum(r.loss(channel) for r in readers)
        least = min(left, key=losses.__getitem__)
        highest = max(highest, losses[least])
        scores[group.channels[least]] = highest
        left.remove(least)
        if left:
            for reader in readers:
                reader.eliminate(least)
    return scores
