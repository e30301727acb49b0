"""Which of several trials is the best."""

from __future__ import annotations

from relaxc.search.journal import Trial
from relaxc.search.ranking import ranked
from relaxc.search.recipe import Recipe


def order(entries: list[tuple[float, float, float]]) -> list[int]:
    """Numbers in their rank, of trials given as (excess, ratio, drop)."""
    trials = [Trial(i, Recipe(), score=1.0, ratio=entry[1]) for i, entry in enumerate(entries)]
    found = ranked(trials, lambda t: entries[t.number][0], lambda t: entries[t.number][2])
    return [trial.number for trial in found]


def test_goals_come_before_speed() -> None:
    assert order([(0.5, 0.1, 0.0), (0.0, 1.0, 0.0), (0.2, 0.2, 0.0)]) == [1, 2, 0]


def test_the_most_accurate_of_those_that_are_equally_fast() -> None:
    assert order([(0, 1.0, 0.0), (0, 0.62, 0.008), (0, 0.63, 0.002), (0, 0.65, 0.0)]) == [
        2,
        1,
        3,
        0,
    ]


def test_a_chain_of_small_steps_does_not_lead_to_a_slow_one() -> None:
    assert order([(0, 1.00, 0.3), (0, 1.02, 0.2), (0, 1.04, 0.1)]) == [1, 0, 2]
