"""Which of several trials is the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from relaxc.search.journal import Trial

Miss = Callable[[Trial], float]
# Times that are closer than this are equal, as far as that can be measured.
_NOISE = 0.03


def ranked(
    trials: Iterable[Trial],
    excess: Miss,
    drop: Callable[[Trial], float],
) -> Iterator[Trial]:
    """The best first: those that miss the goal least, the fastest of them, and of those that are
    equally fast the most accurate, and the first of these, which is the simplest.

    Args:
        trials: none of them failed.
        excess: by how much a trial misses the goal; 0 where it meets it.
        drop: how much accuracy a trial loses.
    """
    left = list(trials)
    while left:
        first = min(left, key=lambda t: (excess(t), _ratio(t), t.number))
        limit = _ratio(first) * (1 + _NOISE)
        equal = [t for t in left if excess(t) == excess(first) and _ratio(t) <= limit]
        best = min(equal, key=lambda t: (drop(t), t.number))
        left.remove(best)
        yield best


def _ratio(trial: Trial) -> float:
    return trial.ratio or 0.0
