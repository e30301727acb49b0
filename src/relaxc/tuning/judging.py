"""How a candidate compares with the untuned kernel, from timed runs of both in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

# After so many pairs, a candidate that has never come closer than this is given up.
_GLANCE, _HOPELESS = 2, 1.2


def judged(
    untuned: Callable[[], float], candidate: Callable[[], float], pairs: int, least_s: float
) -> dict[str, Any]:
    """Run both in turns.

    Args:
        untuned, candidate: run once, and return what that took in seconds.
        pairs: at least, unless there is no hope.
        least_s: to spend, at least.

    Returns:
        `outcome`, which is `ok`; `ratio` of the candidate's time to the untuned kernel's, its
        `noise`, and the fastest runs of both.
    """
    ratios: list[float] = []
    ours: list[float] = []
    theirs: list[float] = []
    end = time.perf_counter() + least_s
    while len(ratios) < pairs or time.perf_counter() < end:
        if len(ratios) == _GLANCE and min(ratios) > _HOPELESS:
            break
        first, second = untuned(), candidate()
        # Twice the other way round: who comes second must not matter.
        third, fourth = candidate(), untuned()
        theirs += [first, fourth]
        ours += [second, third]
        ratios.append((second + third) / (first + fourth))
    ratio = statistics.median(ratios)
    spread = statistics.median(abs(r - ratio) for r in ratios)
    return {
        "outcome": "ok",
        # The median of the pairs and the ratio of the fastest runs: the one that flatters less.
        "ratio": max(ratio, min(ours) / min(theirs)),
        "noise": 1.5 * spread / len(ratios) ** 0.5,
        "seconds": min(ours),
        "untuned_seconds": min(theirs),
    }
