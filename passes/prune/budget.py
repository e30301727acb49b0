"""Which channels go, given what each is worth and what is to be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from relaxc.errors import OptionError
from relaxc.passes.prune.cost import PrunedCost
from relaxc.passes.prune.dependency import Group

Saving = Literal["channels", "macs", "params"]
SAVINGS: tuple[Saving, ...] = get_args(Saving)
Scope = Literal["global", "local", "uniform"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Budget:
    """What is to be saved.

    Attributes:
        saving: what is counted.
        share: how much less of it, in (0, 1).
        scope: `uniform` takes the same share of every group, `local` compares channels within
            their group's mean, `global` compares all channels for what they save.
        multiple: what the count of indices that stay is a multiple of, in groups wide enough.
    """

    saving: Saving
    share: float
    scope: Scope
    multiple: int


def choose(
    groups: tuple[Group, ...], scores: Mapping[int, float], cost: PrunedCost, budget: Budget
) -> list[int]:
    """The channels to remove: as few as reach the budget.

    Raises:
        OptionError: all that may go does not save as much.
    """
    remove = _REMOVALS[budget.scope](groups, scores, cost, budget)
    count = sum(len(g.channels) for g in groups)

    def saved(removed: list[int]) -> float:
        if budget.saving == "channels":
            return len(removed) / max(1, count)
        total = cost.macs if budget.saving == "macs" else cost.params
        return 1 - total(removed) / total([])

    if budget.saving == "channels" and budget.scope == "uniform":
        return remove(budget.share)
    low, high = 0.0, 1.0
    most = saved(remove(high))
    if most < budget.share:
        raise OptionError(
            f"pruning cannot save {budget.share:.0%} of the {budget.saving}: without all channels "
            f"that may go it is {most:.0%}; ask for less, or exclude less"
        )
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (low, middle) if saved(remove(middle)) >= budget.share else (middle, high)
    return remove(high)


Removal = Callable[[float], list[int]]


def _uniform(
    groups: tuple[Group, ...], scores: Mapping[int, float], _cost: PrunedCost, budget: Budget
) -> Removal:
    ranked = [(g, sorted(g.channels, key=scores.__getitem__)) for g in groups]
    return lambda share: [
        c for g, order in ranked for c in order[: _rounded(g, share * len(order), budget.multiple)]
    ]


def _local(
    groups: tuple[Group, ...], scores: Mapping[int, float], _cost: PrunedCost, budget: Budget
) -> Removal:
    relative: dict[int, float] = {}
    for group in groups:
        mean = max(float(np.mean([scores[c] for c in group.channels])), 1e-30)
        relative |= {c: scores[c] / mean for c in group.channels}
    return _by_threshold(groups, relative, budget)


def _global(
    groups: tuple[Group, ...], scores: Mapping[int, float], cost: PrunedCost, budget: Budget
) -> Removal:
    worth = dict(scores)
    if budget.saving != "channels":
        total = cost.macs if budget.saving == "macs" else cost.params
        for group in groups:
            each = (total([]) - total(group.channels)) / total([]) / len(group.channels)
            worth |= {c: scores[c] / max(each, 1e-12) for c in group.channels}
    return _by_threshold(groups, worth, budget)


def _by_threshold(groups: tuple[Group, ...], worth: Mapping[int, float], budget: Budget) -> Removal:
    ranked = [(g, sorted(g.channels, key=worth.__getitem__)) for g in groups]
    order = np.sort(np.array([worth[c] for g in groups for c in g.channels]))

    def remove(share: float) -> list[int]:
        limit = np.inf if share == 1 else float(np.quantile(order, share))
        result: list[int] = []
        for group, channels in ranked:
            below = sum(worth[c] < limit for c in channels)
            result += channels[: _rounded(group, below, budget.multiple)]
        return result

    return remove


def _rounded(group: Group, wanted: float, multiple: int) -> int:
    """How many channels of a group go, so that what stays is a good number and never nothing."""
    count = len(group.channels)
    step = max(1, multiple // group.width)
    while step > 1 and 4 * step > count:
        step //= 2
    kept = max(step, round((count - wanted) / step) * step)
    return max(0, count - kept) if kept < count else 0


_REMOVALS: dict[
    Scope, Callable[[tuple[Group, ...], Mapping[int, float], PrunedCost, Budget], Removal]
] = {"uniform": _uniform, "local": _local, "global": _global}
