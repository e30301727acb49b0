"""Which trials no other one beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relaxc.search.journal import Trial


def pareto_front(trials: Sequence[Trial], drop: Callable[[Trial], float]) -> list[Trial]:
    """The trials that no other one equals or beats in drop, latency and size at once.

    Args:
        trials: candidates; those that failed are left out.
        drop: how much worse a trial is than the float build.

    Returns:
        In order of latency; of trials that are alike in everything, the first.
    """
    costs = {
        trial.number: (drop(trial), trial.ratio or 0.0, trial.size_bytes or 0)
        for trial in trials
        if trial.is_ok
    }

    def is_beaten(trial: Trial) -> bool:
        ours = costs[trial.number]
        return any(
            all(b <= a for a, b in zip(ours, theirs)) and (theirs != ours or number < trial.number)
            for number, theirs in costs.items()
            if number != trial.number
        )

    front = [trial for trial in trials if trial.is_ok and not is_beaten(trial)]
    return sorted(front, key=lambda trial: (trial.ratio or 0.0, trial.number))
