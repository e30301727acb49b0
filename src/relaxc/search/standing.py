"""How trials stand: beside the float build, the goal, and each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relaxc.search.goal import Goal
from relaxc.search.journal import Trial
from relaxc.search.pareto import pareto_front
from relaxc.search.ranking import Miss, ranked


class Standing:
    """The trials so far.

    Args:
        goal: what an artifact must keep.
        is_higher_better: whether larger scores are better.

    Attributes:
        trials: in order; the float build's is the first.
    """

    def __init__(self, goal: Goal, is_higher_better: bool) -> None:
        self.trials: list[Trial] = []
        self._goal = goal
        self._is_higher_better = is_higher_better

    @property
    def base(self) -> Trial:
        """The float build's trial."""
        return self.trials[0]

    def drop(self, trial: Trial) -> float:
        """How much worse a trial is than the float build; infinite where it failed."""
        if trial.score is None or self.base.score is None:
            return float("inf")
        sign = 1 if self._is_higher_better else -1
        return sign * (self.base.score - trial.score)

    def allowed_drop(self) -> float:
        """How much worse an artifact may be."""
        return self._goal.max_drop.allowed(self.base.score or 0.0)

    def meets_goal(self, trial: Trial) -> bool:
        """Whether a trial keeps accuracy, latency and size."""
        return trial.is_ok and not any(self._excess(trial))

    def best(self) -> Trial:
        """The fastest that meets the goal, else the one that misses it least."""
        return next(self.ranked(self._done()))

    def best_by_accuracy(self) -> Trial:
        """The fastest that keeps the accuracy, whatever else the goal asks."""
        return next(self.ranked(self._done(), self._loss))

    def front(self) -> list[Trial]:
        """The trials that no other one beats."""
        return pareto_front(self.trials, self.drop)

    def ranked(self, trials: Iterable[Trial], miss: Miss | None = None) -> Iterator[Trial]:
        """Trials, the best first.

        Args:
            trials: none of them failed.
            miss: by how much a trial misses what counts; all of the goal by default.
        """
        return ranked(trials, miss or (lambda trial: sum(self._excess(trial))), self.drop)

    def _done(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.is_ok]

    def _loss(self, trial: Trial) -> float:
        return max(0.0, self.drop(trial) - self.allowed_drop())

    def _excess(self, trial: Trial) -> tuple[float, float, float]:
        """By how much a trial misses each part of the goal, relative to the limit."""
        scale = max(self.allowed_drop(), 0.01 * abs(self.base.score or 0.0), 1e-9)
        return (
            self._loss(trial) / scale,
            _over(trial.latency_ms, self._goal.max_latency_ms),
            _over(trial.size_bytes, self._goal.max_size_bytes),
        )


def _over(value: float | None, limit: float | None) -> float:
    """By how much a value exceeds a limit, relative to it."""
    if value is None or limit is None:
        return 0.0
    return max(0.0, value / limit - 1)
