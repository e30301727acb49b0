"""Timing ways to compile a model, kernel by kernel, in turns."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from tvm import IRModule

from relaxc.gate.variant import Feed, Seconds, Variant
from relaxc.measure.kernel_times import KernelTimes
from relaxc.measure.profile import fastest_calls
from relaxc.runtime.model import Model

# Times are the least over so many turns of each model, each of about so many seconds: more of them
# until the two fastest turns of every model differ by no more than this.
_TURNS, _MOST_TURNS, _TURN_S = 3, 8, 0.15
_STEADY = 1.05
_FEWEST_RUNS, _MOST_RUNS = 3, 100

# Makes a finished module runnable, given what its kernels compute, until the stack is left.
Build = Callable[[ExitStack, IRModule, list[dict[str, Any]]], Model]


class Stopwatch:
    """Times variants against each other, unless all their kernels are known.

    Args:
        build: makes modules runnable.
        feed: inputs to run them on.
        times: of kernels, of this compilation and earlier ones.
        stack: how long what was built is kept.

    Attributes:
        is_steady: whether turns agreed so far.
    """

    def __init__(self, build: Build, feed: Feed, times: KernelTimes, stack: ExitStack) -> None:
        self._build = build
        self._feed = feed
        self._times = times
        self._stack = stack
        self.is_steady = True

    def time(self, variants: Sequence[Variant]) -> None:
        """Find out about every kernel of these variants."""
        calls = [call for variant in variants for call in variant.calls]
        if any(self._times.get(call.key) is None for call in calls):
            seconds, is_steady = self._measure(variants)
            self._times.add(seconds, keep=is_steady)
            self.is_steady = self.is_steady and is_steady

    def _measure(self, variants: Sequence[Variant]) -> tuple[Seconds, bool]:
        """Kernels at their fastest, and whether turns agree."""
        models = {v: self._build(self._stack, v.mod, v.kernels) for v in variants}
        least: dict[Variant, dict[int, float]] = {variant: {} for variant in variants}
        totals: dict[Variant, list[float]] = {variant: [] for variant in variants}
        for turn in range(_MOST_TURNS):
            if turn >= _TURNS and all(map(agree, totals.values())):
                break
            for variant in variants:
                totals[variant].append(self._turn(models[variant], least[variant]))
        return self._by_key(least), all(map(agree, totals.values()))

    def _by_key(self, least: Mapping[Variant, Mapping[int, float]]) -> Seconds:
        result: dict[str, float] = {}
        for variant, times in least.items():
            by_key: dict[str, list[float]] = defaultdict(list)
            for place, seconds in times.items():
                by_key[variant.calls[place].key].append(seconds)
            for key, found in by_key.items():
                mean = sum(found) / len(found)
                result[key] = min(mean, result.get(key, mean))
        return result

    def _turn(self, model: Model, least: dict[int, float]) -> float:
        """Update the least times; the sum of this turn's own."""
        feed = self._feed
        model.run(feed)
        start = time.perf_counter()
        model.run(feed)
        took = time.perf_counter() - start
        runs = max(_FEWEST_RUNS, min(_MOST_RUNS, int(_TURN_S / took)))
        found = fastest_calls(model, feed, runs)
        for place, seconds in found.items():
            least[place] = min(seconds, least.get(place, seconds))
        return sum(found.values())


def agree(totals: Sequence[float]) -> bool:
    """Whether the two fastest turns took equally long, so that nothing disturbed them."""
    first, second = sorted(totals)[:2]
    return second <= _STEADY * first
