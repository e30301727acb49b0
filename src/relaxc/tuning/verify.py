"""Tuned kernels inside of their model, beside the untuned model: what counts in the end.

Alone, a kernel finds its data where the measurement put them; in a model, where the layer before
left them. Both artifacts take turns, so that both meet the same conditions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from relaxc.measure.profile import profile
from relaxc.measure.roofline import Roofline
from relaxc.runtime.model import Model
from relaxc.runtime.session import load

_ROUNDS, _RUNS = 6, 8
_PAIRS, _LEAST_S, _MOST_S = 15, 0.5, 4.0

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class KernelCost:
    """What a task takes per inference, all its calls together.

    Attributes:
        seconds: at the fastest.
        least_s: that arithmetic and traffic take on this machine; None if unknown.
    """

    seconds: float
    least_s: float | None


def costs(
    model: Model, feed: Feed, roofline: Roofline | None, runs: int = _RUNS
) -> dict[str, KernelCost]:
    """Time by task."""
    found: dict[str, KernelCost] = {}
    for kernel in profile(model, feed, runs).kernels:
        if kernel.task is None:
            continue
        least = None
        if roofline is not None and kernel.flops is not None and kernel.bytes:
            calls = max(kernel.calls, 1)
            once = roofline.seconds(kernel.flops / calls, kernel.bytes / calls, kernel.dtype)
            least = once * calls
        before = found.get(kernel.task, KernelCost(0.0, 0.0))
        known = least is not None and before.least_s is not None
        found[kernel.task] = KernelCost(
            before.seconds + kernel.min_s,
            (before.least_s or 0.0) + (least or 0.0) if known else None,
        )
    return found


@dataclass(frozen=True)
class Comparison:
    """Two artifacts of a model.

    Attributes:
        ratios: key of a task -> its time in the second over that in the first.
        before_s, after_s: an inference.
        ratio: of the two: the geometric mean of the median over pairs and of the minima's.
    """

    ratios: Mapping[str, float]
    before_s: float
    after_s: float
    ratio: float


def compare_artifacts(first: Path, second: Path, feed: Feed, threads: int) -> Comparison:
    """Measure both in turns."""
    models = [load(path, threads=threads) for path in (first, second)]
    rounds = []
    for _ in range(_ROUNDS):
        one, two = (costs(model, feed, None) for model in models)
        rounds.append(
            {k: two[k].seconds / one[k].seconds for k in one if one[k].seconds and k in two}
        )
    ratios = {key: statistics.median(r[key] for r in rounds if key in r) for key in rounds[0]}
    return replace(_race(models[0], models[1], feed), ratios=ratios)


def race_artifacts(first: Path, second: Path, feed: Feed, threads: int) -> Comparison:
    """The same where kernels cannot be timed one by one."""
    one, two = (load(path, threads=threads) for path in (first, second))
    return _race(one, two, feed)


def _race(one: Model, two: Model, feed: Feed) -> Comparison:
    times: tuple[list[float], list[float]] = ([], [])
    start = time.perf_counter()
    while len(times[0]) < _PAIRS or time.perf_counter() - start < _LEAST_S:
        order = (0, 1) if len(times[0]) % 2 else (1, 0)
        for i in order:
            begin = time.perf_counter()
            (one, two)[i].run(feed)
            times[i].append(time.perf_counter() - begin)
        if time.perf_counter() - start > _MOST_S and len(times[0]) >= 3:
            break
    before, after = times
    pairs = statistics.median(b / a for a, b in zip(before, after))
    ratio = (pairs * min(after) / min(before)) ** 0.5
    return Comparison({}, min(before), min(after), ratio)
