"""Remove the channels that matter least, from every tensor at once.

Before:                                          After, half of the channels removed:
    lv = R.nn.conv2d(x, w[64, 3, 3, 3])              lv = R.nn.conv2d(x, w[32, 3, 3, 3])
    lv1 = R.nn.relu(lv)                              lv1 = R.nn.relu(lv)
    gv = R.nn.conv2d(lv1, v[64, 64, 3, 3])           gv = R.nn.conv2d(lv1, v[64, 32, 3, 3])

Which: dependency.py finds what must go together, importance.py says what matters, budget.py
chooses. With `recover`, reconstruct.py then corrects the weights that are left, and distill.py
trains them if it is told how.
Leaves alone: groups of channels that excluded nodes have a part in; inputs and outputs.
Changes results: yes; without recovery, exactly as if nobody read the removed channels.
Must run after: canonicalization; batch norms are part of the weights by then. Must run before:
quantization, whose ranges depend on what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.analysis.cost import layer_costs
from relaxc.passes.base import Pass
from relaxc.passes.prune.budget import Budget, choose, rounded
from relaxc.passes.prune.candidates import candidates, judge
from relaxc.passes.prune.cost import PrunedCost
from relaxc.passes.prune.dependency import Dependencies, Group, dependencies
from relaxc.passes.prune.distill import Distillation, distill
from relaxc.passes.prune.importance import Importance, Scores
from relaxc.passes.prune.latency import Clock, LatencyTable, measure_table
from relaxc.passes.prune.products import products_of
from relaxc.passes.prune.reconstruct import reconstruct
from relaxc.passes.prune.remove import remove_channels
from relaxc.passes.prune.segments import Arrays, Run
from relaxc.passes.prune.sensitivity import AnalyzeSensitivity, Curves, scores_by_curves


@dataclass(frozen=True)
class GroupReport:
    """What became of one group.

    Attributes:
        name: of the first operator that makes its channels.
        nodes: all operators whose weights have them.
        before: how many there were.
        after: how many are left.
    """

    name: str
    nodes: tuple[str, ...]
    before: int
    after: int


@dataclass(frozen=True)
class LayerReport:
    """What became of one operator; pairs are before and after.

    Attributes:
        name: of the operator.
        op: its kind.
        macs: multiply-accumulates; symbolic dimensions count as 1.
        params: numbers in its weights.
        bytes: that it reads and writes by itself.
        latency_s: of its kernel, with what is fused into it, where pruning went by time; None if it
            has none of its own.
    """

    name: str
    op: str
    macs: tuple[int, int]
    params: tuple[int, int]
    bytes: tuple[int, int]
    latency_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class PruneReport:
    """What pruning did.

    Attributes:
        groups: one entry per group of channels that could be removed.
        layers: one entry per operator that multiplies or has weights.
        macs: before and after; symbolic dimensions count as 1.
        params: numbers in weights, before and after.
        mod: the pruned module.
        latency: seconds of all kernels before and after, as their table says, where that was the
            budget.
    """

    groups: tuple[GroupReport, ...]
    layers: tuple[LayerReport, ...]
    macs: tuple[int, int]
    params: tuple[int, int]
    mod: IRModule
    latency: tuple[float, float] | None = None


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove channels.

    Attributes:
        budget: what is to be saved.
        importance: how channels are judged.
        exclude: nodes whose channels stay: names, or regular expressions that match whole names.
        recover: whether weights that are left are corrected.
        run: compiles a module and runs it; for judging by samples, and for recovery.
        samples: gives arguments of `main`.
        report: told what became of the module.
        progress: told how far the work is.
        curves: of each group's sensitivity, for that scope; measured where there are none.
        distillation: how to train what is left, at last; None: not.
        clock: times kernels, for budgets in latency.
    """

    budget: Budget
    importance: Importance = "l2"
    exclude: tuple[str, ...] = ()
    recover: bool = False
    run: Run | None = None
    samples: Callable[[], list[Arrays]] = list
    report: Callable[[PruneReport], None] = lambda _report: None
    progress: Callable[[str], None] = lambda _text: None
    curves: Curves = field(default_factory=dict)
    distillation: Distillation | None = None
    clock: Clock | None = None

    name: ClassVar[str] = "prune-channels"
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Prune `main`.

        Raises:
            OptionError: there is nothing to remove, the budget cannot be reached, or what is
                excluded matches no node.
        """
        found = dependencies(mod)
        groups = candidates(found, self.exclude)
        scores = self._scores(mod, found, groups)
        latency = self._latency(mod, found, groups, scores)
        cost = PrunedCost(mod, found, latency)
        removed = choose(groups, scores, cost, self.budget)
        small = remove_channels(mod, found, removed)
        kept = _Kept(found, removed)
        if self.recover:
            assert self.run is not None
            whole = {p.var.name: len(p.matrix()) for p in products_of(mod)}
            nodes = {
                str(p.var.name) for p in products_of(small) if len(p.matrix()) < whole[p.var.name]
            }
            small = reconstruct(mod, small, nodes, kept, self.run, self.samples(), self.progress)
        if self.distillation is not None:
            assert self.run is not None
            samples = self.samples()
            small = distill(mod, small, kept, self.run, samples, self.distillation, self.progress)
        macs = round(cost.macs([])), round(cost.macs(removed))
        params = round(cost.params([])), round(cost.params(removed))
        seconds, times = None, {}
        if latency is not None:
            seconds = latency.seconds([]), latency.seconds(removed)
            left = latency.by_layer(removed)
            times = {name: (was, left[name]) for name, was in latency.by_layer([]).items()}
        layers = _layers(mod, small, times)
        self.report(PruneReport(_reports(groups, removed), layers, macs, params, small, seconds))
        return small

    def _scores(self, mod: IRModule, found: Dependencies, groups: tuple[Group, ...]) -> Scores:
        scores = judge(mod, found, self.importance, self.run, self.samples, self.progress)
        if self.budget.scope != "sensitivity":
            return scores
        return scores_by_curves(groups, scores, self.curves or self._measured(mod))

    def _latency(
        self, mod: IRModule, found: Dependencies, groups: tuple[Group, ...], scores: Scores
    ) -> LatencyTable | None:
        if self.budget.saving != "latency":
            return None
        assert self.clock is not None
        self.progress("time kernels")
        multiple = self.budget.multiple
        return measure_table(
            mod, found, groups, scores, lambda g, share: rounded(g, share, multiple), self.clock
        )

    def _measured(self, mod: IRModule) -> Curves:
        assert self.run is not None
        curves: dict[str, list[tuple[float, float]]] = {}
        analysis = AnalyzeSensitivity(
            self.run,
            self.samples,
            lambda p: curves.setdefault(p.group, []).append((p.removed / p.channels, p.value)),
            self.importance,
            exclude=self.exclude,
            progress=self.progress,
        )
        analysis.apply(mod)
        return curves


@dataclass(frozen=True)
class _Kept:
    """Which columns of a product are left."""

    found: Dependencies
    removed: list[int]

    def __call__(self, var: relax.Var) -> np.ndarray | None:
        axes = self.found.values[var][0]
        is_conv = len(axes) == 4
        axis = axes[1] if is_conv else axes[-1]
        return None if axis is None else ~np.isin(axis, self.removed)


def _layers(
    dense: IRModule, small: IRModule, times: Mapping[str, tuple[float, float]]
) -> tuple[LayerReport, ...]:
    after = {layer["name"]: layer for layer in layer_costs(small)}
    pairs = [(layer, after[layer["name"]]) for layer in layer_costs(dense)]
    # A node becomes several operators and one kernel, which is that of its products.
    main: dict[str, Mapping[str, Any]] = {}
    for layer, _ in pairs:
        node = _node(layer)
        if node not in main or layer["macs"] > main[node]["macs"]:
            main[node] = layer
    return tuple(
        LayerReport(
            str(a["name"]),
            a["op"],
            (a["macs"], b["macs"]),
            (a["params"], b["params"]),
            (a["bytes"], b["bytes"]),
            times.get(_node(a)) if main[_node(a)] is a else None,
        )
        for a, b in pairs
        if a["macs"] or a["params"]
    )


def _node(layer: Mapping[str, Any]) -> str:
    return re.sub(r"\.\d+$", "", str(layer["name"]))


def _reports(groups: tuple[Group, ...], removed: list[int]) -> tuple[GroupReport, ...]:
    gone = set(removed)
    return tuple(
        GroupReport(g.name, g.nodes, len(g.channels), len(set(g.channels) - gone)) for g in groups
    )
