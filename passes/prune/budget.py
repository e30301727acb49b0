"""Which channels go, given what each is worth and what is to be saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from relaxc.errors import OptionError
from relaxc.passes.prune.cost import PrunedCost
from relaxc.passes.prune.dependency import Group

Saving = Literal["channels", "latency", "macs", "params"]
SAVINGS: tuple[Saving, ...] = get_args(Saving)
Scope = Literal["global", "local", "uniform", "sensitivity"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Budget:
    """What is to be saved.

    Attributes:
        saving: what is counted.
        share: how much less of it, in (0, 1).
        scope: `uniform` takes the same share of every group, `local` compares channels within
            their group's mean, `global` and `sensitivity` compare all channels for what they save.
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
    choice = _Choice(groups, _worths(groups, scores, cost, budget), cost, budget)
    if budget.saving == "channels" and budget.scope == "uniform":
        return choice.removed(choice.counts(budget.share))
    low, high = 0.0, 1.0
    most = choice.saved(choice.counts(high))
    if most < budget.share:
        raise OptionError(
            f"pruning cannot save {100 * budget.share:.4g}% of the {budget.saving}: without all "
            f"channels that may go it is {100 * most:.3g}%; ask for less, or exclude less"
        )
    for _ in range(24):
        middle = (low + high) / 2
        enough = choice.saved(choice.counts(middle)) >= budget.share
        low, high = (low, middle) if enough else (middle, high)
    # Groups move in steps, some of them large: from above as from below, single steps lead closer.
    less = choice.without_excess(choice.counts(high))
    more = choice.without_excess(choice.with_more(choice.counts(low)))
    return choice.removed(min(less, more, key=choice.loss))


class _Choice:
    """How many channels of each group go, the ones that are worth least first."""

    def __init__(
        self,
        groups: tuple[Group, ...],
        worth: Mapping[int, float],
        cost: PrunedCost,
        budget: Budget,
    ) -> None:
        self._ranked = [sorted(g.channels, key=worth.__getitem__) for g in groups]
        self._steps = [_step(g, budget.multiple) for g in groups]
        self._worth = worth
        self._cost = cost
        self._budget = budget
        self._order = np.sort(np.array([worth[c] for ranked in self._ranked for c in ranked]))

    def counts(self, share: float) -> list[int]:
        """What goes of each group so that about a share of all channels does."""
        if self._budget.scope == "uniform":
            wanted = [share * len(ranked) for ranked in self._ranked]
        else:
            limit = np.inf if share == 1 else float(np.quantile(self._order, share))
            wanted = [sum(self._worth[c] < limit for c in ranked) for ranked in self._ranked]
        return [
            _rounded(len(ranked), count, step)
            for ranked, count, step in zip(self._ranked, wanted, self._steps)
        ]

    def removed(self, counts: list[int]) -> list[int]:
        """The channels themselves."""
        return [c for ranked, count in zip(self._ranked, counts) for c in ranked[:count]]

    def saved(self, counts: list[int]) -> float:
        """The share that they save."""
        removed = self.removed(counts)
        if self._budget.saving == "channels":
            return len(removed) / max(1, len(self._order))
        total = self._cost.total(self._budget.saving)
        return 1 - total(removed) / total([])

    def loss(self, counts: list[int]) -> float:
        """What they are worth: for what they save, so times that."""
        return self.saved(counts) * float(
            np.mean([self._worth[c] for c in self.removed(counts)] or [0.0])
        )

    def without_excess(self, counts: list[int]) -> list[int]:
        """Give back steps that the budget does not need, the most valuable first."""
        counts = list(counts)
        waiting = set(range(len(counts)))
        while waiting:
            group = max(waiting, key=lambda g: self._last(g, counts[g]))
            fewer = self._fewer(group, counts[group])
            trial = [fewer if g == group else n for g, n in enumerate(counts)]
            if fewer < counts[group] and self.saved(trial) >= self._budget.share:
                counts = trial
                # A uniform choice stays one: no group gives back twice.
                if self._budget.scope != "uniform":
                    continue
            waiting.remove(group)
        return counts

    def with_more(self, counts: list[int]) -> list[int]:
        """Take further steps until the budget is met, the least valuable first."""
        counts = list(counts)
        while self.saved(counts) < self._budget.share:
            further = {
                g: more for g, n in enumerate(counts) if (more := self._more(g, n)) is not None
            }
            group = min(further, key=lambda g: self._last(g, further[g]))
            counts[group] = further[group]
        return counts

    def _fewer(self, group: int, count: int) -> int:
        return max(0, count - self._steps[group])

    def _more(self, group: int, count: int) -> int | None:
        all_, step = len(self._ranked[group]), self._steps[group]
        kept = (all_ - count - 1) // step * step
        return all_ - kept if kept else None

    def _last(self, group: int, count: int) -> float:
        """What the last step of a group took is worth."""
        last = self._ranked[group][self._fewer(group, count) : count]
        return float(np.mean([self._worth[c] for c in last])) if last else -1.0


def _worths(
    groups: tuple[Group, ...], scores: Mapping[int, float], cost: PrunedCost, budget: Budget
) -> dict[int, float]:
    """What scores mean in a scope: within the group, or for what a channel saves."""
    worth = {c: scores[c] for g in groups for c in g.channels}
    for group in groups:
        if budget.scope in ("uniform", "local"):
            each = max(float(np.mean([scores[c] for c in group.channels])), 1e-30)
        elif budget.saving == "channels":
            each = 1.0
        else:
            total = cost.total(budget.saving)
            each = max((total([]) - total(group.channels)) / total([]) / len(group.channels), 1e-12)
        worth |= {c: scores[c] / each for c in group.channels}
    return worth


def _step(group: Group, multiple: int) -> int:
    """How many channels come or go at once."""
    step = max(1, multiple // group.width)
    while step > 1 and 4 * step > len(group.channels) and not group.are_units:
        step //= 2
    return step


def _rounded(count: int, wanted: float, step: int) -> int:
    """How many channels of a group go, so that what stays is a good number and never nothing."""
    kept = max(step, round((count - wanted) / step) * step)
    return max(0, count - kept) if kept < count else 0


def rounded(group: Group, share: float, multiple: int) -> int:
    """How many channels of a group go so that about a share of them does."""
    count = len(group.channels)
    return _rounded(count, share * count, _step(group, multiple))
