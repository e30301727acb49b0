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

from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from tvm import IRModule

from relaxc.gate.layers import Layers, LayerSpeed
from relaxc.gate.stopwatch import Build, Stopwatch
from relaxc.gate.variant import Feed, Seconds, Variant
from relaxc.measure.kernel_times import KernelTimes

_MOST_VARIANTS = 3
# Of the time with all layers on integers, for which some of them become float.
_WORTHWHILE = 0.99
# Of the float model's time: what is closer may be noise, and float is more exact.
_FASTER = 0.98


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
            stopwatch = Stopwatch(self.build, self.feed, self.times, stack)
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
        is_slower = chosen > _FASTER * plain.total(seconds)
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
