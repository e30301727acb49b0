"""The Pareto front."""

from __future__ import annotations

from relaxc.search.journal import Trial
from relaxc.search.pareto import pareto_front
from relaxc.search.recipe import Recipe


def trial(number: int, score: float, ratio: float, size: int) -> Trial:
    return Trial(number, Recipe(), score, ratio, ratio, size)


def front(*trials: Trial) -> list[int]:
    return [t.number for t in pareto_front(trials, lambda t: 1 - (t.score or 0))]


def test_beaten_in_all() -> None:
    assert front(trial(0, 1.0, 1.0, 9), trial(1, 0.9, 0.5, 5), trial(2, 0.8, 0.6, 6)) == [1, 0]


def test_better_in_one() -> None:
    assert front(trial(0, 1.0, 1.0, 9), trial(1, 1.0, 1.1, 8)) == [0, 1]


def test_of_equals_the_first() -> None:
    assert front(trial(0, 1.0, 1.0, 9), trial(1, 1.0, 1.0, 9)) == [0]


def test_failures_are_left_out() -> None:
    assert front(trial(0, 1.0, 1.0, 9), Trial(1, Recipe(), error="no")) == [0]
