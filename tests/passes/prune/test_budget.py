"""Budgets are met closely, although groups move in steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from relaxc.passes.prune.budget import Budget, Scope, choose, rounded
from relaxc.passes.prune.dependency import Group

# One group that many layers read, and others that hardly count.
_SIZES = (16, 16, 32, 64, 10)
_WEIGHTS = (40, 5, 4, 3, 2)


class _Cost:
    """Every channel of a group costs the same."""

    def __init__(self, groups: tuple[Group, ...]) -> None:
        self._of = {c: w / len(g.channels) for g, w in zip(groups, _WEIGHTS) for c in g.channels}

    def macs(self, removed: list[int]) -> float:
        return sum(self._of.values()) - sum(self._of[c] for c in removed)

    params = macs

    def total(self, _saving: str) -> Callable[[list[int]], float]:
        return self.macs


def _groups() -> tuple[Group, ...]:
    ends = np.cumsum(_SIZES).tolist()
    return tuple(
        Group(f"g{i}", tuple(range(end - size, end)), 1, (f"g{i}",))
        for i, (size, end) in enumerate(zip(_SIZES, ends))
    )


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_the_excess_is_less_than_what_any_group_could_give_back(
    scope: Scope, share: float, seed: int
) -> None:
    groups = _groups()
    cost = _Cost(groups)
    scores = dict(enumerate(np.random.default_rng(seed).random(sum(_SIZES)).tolist()))
    budget = Budget("macs", share, scope, 4)
    removed = choose(groups, scores, cost, budget)  # type: ignore[arg-type]
    total = cost.macs([])
    assert 1 - cost.macs(removed) / total >= share
    for group in groups:
        gone = [c for c in group.channels if c in removed]
        step = 2 if len(group.channels) == 10 else 4
        assert (len(group.channels) - len(gone)) % step == 0
        assert len(gone) < len(group.channels)
        # The channels that are worth least are the ones that went.
        assert max((scores[c] for c in gone), default=0) <= min(
            scores[c] for c in group.channels if c not in removed
        )
        if gone:
            back = sorted(gone, key=scores.__getitem__)[:-step]
            fewer = [c for c in removed if c not in gone] + back
            assert 1 - cost.macs(fewer) / total < share


def test_units_of_an_lstm_come_in_whole_vectors() -> None:
    plain = Group("conv", tuple(range(32)), 1, ("conv",))
    units = Group("lstm", tuple(range(32)), 1, ("lstm",), are_units=True)
    assert [rounded(group, 0.25, 16) for group in (plain, units)] == [8, 0]
    assert rounded(units, 0.5, 16) == 16
