"""Which layers stay float because integers are not faster on this machine.

The model is compiled twice, quantized (with ranges made up: they do not change its speed) and
float, and both are run in turns, kernel by kernel. Kernels of both that compute the same nodes make
a layer; conversions count for the layer that reads them. Layers that are not faster become float,
and the model is timed again: one that loses to conversions around its neighbours goes back. If the
whole is then no faster than float, all of it stays float.

Times are kept, and a model whose kernels are all known is not compiled for this at all. They are
not kept where turns differ, because something else kept the machine busy: the next compilation
takes them again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tvm import IRModule

from relaxc.gate.layers import Layers, LayerSpeed
from relaxc.gate.variant import Feed, Seconds, Variant
from relaxc.measure.kernel_times import KernelTimes
from relaxc.measure.profile import fastest_calls
from relaxc.runtime.session import Model

# Times are the least over so many turns of each model, each of about so many seconds: more of them
# until the two fastest turns of every model differ by no more than this.
_TURNS, _MOST_TURNS, _TURN_S = 3, 8, 0.15
_STEADY = 1.05
_FEWEST_RUNS, _MOST_RUNS = 3, 100
_MOST_VARIANTS = 3
# Of the time with all layers on integers, for which some of them become float.
_WORTHWHILE = 0.99


# Makes a finished module runnable, given what its kernels compute, until the stack is left.
Build = Callable[[ExitStack, IRModule, list[dict[str, Any]]], Model]


@dataclass(frozen=True)
class GateReport:
    """What the gate found.

    Attributes:
        layers: in the order of execution.
        float_s, integer_s, chosen_s: all kernels of the float model, of the one that is quantized
            as far as possible, and of the one that was chosen.
        is_steady: whether repeated turns took equally long; else times may be wrong.
    """

    layers: tuple[LayerSpeed, ...]
    float_s: float
    integer_s: float
    chosen_s: float
    is_steady: bool = True

    @property
    def reverted(self) -> list[str]:
        """The nodes that stay float."""
        return [n for layer in self.layers if not layer.is_kept for n in layer.nodes]


@dataclass(frozen=True)
class SpeedGate:
    """Compares a model with its quantized self.

    Attributes:
        finish: all passes on the float module, with these nodes left float; None: all of them.
        build: makes modules runnable.
        feed: inputs to run it on.
        nodes: which nodes of a float module would be quantized.
        times: of kernels, of this compilation and earlier ones.
        on_report: told the result.
    """

    finish: Callable[[IRModule, Collection[str] | None], IRModule]
    build: Build
    feed: Feed
    nodes: Callable[[IRModule], list[str]]
    times: KernelTimes
    on_report: Callable[[GateReport], None]

    def __call__(self, mod: IRModule) -> list[str]:
        """The nodes of a float module that had better stay float."""
        nodes = self.nodes(mod)
        if not nodes:
            return []
        with ExitStack() as stack:
            stopwatch = _Stopwatch(self, stack)
            plain = Variant.of(mod, self.finish(mod, None), self.feed)
            whole = Variant.of(mod, self.finish(mod, ()), self.feed)
            layers = Layers(nodes, plain, whole)
            stopwatch.time([plain, whole])
            seconds = self._seconds([plain, whole])
            tried = {frozenset[int](): whole}
            slow = layers.slow(seconds)
            while slow and slow not in tried and len(tried) < _MOST_VARIANTS:
                tried[slow] = Variant.of(mod, self.finish(mod, layers.nodes_of(slow)), self.feed)
                stopwatch.time([tried[slow]])
                seconds = self._seconds([plain, *tried.values()])
                # Without those that lose more around them than they gain.
                slow = layers.gaining(slow, tried[slow], seconds)
        reverted = min(tried, key=lambda slow: tried[slow].total(seconds))
        if tried[reverted].total(seconds) > _WORTHWHILE * whole.total(seconds):
            reverted = frozenset()
        chosen = tried[reverted].total(seconds)
        is_slower = chosen >= plain.total(seconds)
        self.on_report(
            GateReport(
                layers.report(reverted, seconds, is_slower),
                plain.total(seconds),
                whole.total(seconds),
                plain.total(seconds) if is_slower else chosen,
                stopwatch.is_steady,
            )
        )
        return nodes if is_slower else layers.nodes_of(reverted)

    def _seconds(self, variants: Iterable[Variant]) -> Seconds:
        keys = {call.key for variant in variants for call in variant.calls}
        # Kernels without a time never ran: they are in a branch that these inputs do not take.
        return {key: self.times.get(key) or 0.0 for key in keys}


class _Stopwatch:
    """Times variants against each other, unless all their kernels are known."""

    def __init__(self, gate: SpeedGate, stack: ExitStack) -> None:
        self.gate = gate
        self.stack = stack
        self.is_steady = True

    def time(self, variants: Sequence[Variant]) -> None:
        """Find out about every kernel of these variants."""
        calls = [call for variant in variants for call in variant.calls]
        if any(self.gate.times.get(call.key) is None for call in calls):
            seconds, is_steady = self._measure(variants)
            self.gate.times.add(seconds, keep=is_steady)
            self.is_steady = self.is_steady and is_steady

    def _measure(self, variants: Sequence[Variant]) -> tuple[Seconds, bool]:
        """Kernels at their fastest, and whether turns agree."""
        models = {v: self.gate.build(self.stack, v.mod, v.kernels) for v in variants}
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
        feed = self.gate.feed
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
