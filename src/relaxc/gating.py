"""The speed gate's part of a compilation: what it builds, and what it runs that on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import IRModule

from relaxc.calibrate import CalibrationData, Feed
from relaxc.gate.speed_gate import GateReport, SpeedGate
from relaxc.gate.stopwatch import Build
from relaxc.measure.feeds import make_feed
from relaxc.measure.kernel_times import KernelTimes
from relaxc.options import CompileOptions, Diagnostics, QuantizeOptions
from relaxc.pass_runner import PassRunner, select_passes
from relaxc.passes.base import Pass
from relaxc.passes.pipeline import default_passes
from relaxc.passes.quantize.annotate import AnnotateQuantization
from relaxc.passes.quantize.calibrate import Collect
from relaxc.passes.quantize.gate import GateQuantization
from relaxc.passes.quantize.histogram import Histogram
from relaxc.passes.quantize.instrument import observers
from relaxc.passes.quantize.quantize_weights import QuantizeWeights
from relaxc.runtime.model import TensorInfo
from relaxc.runtime.threads import resolve_threads
from relaxc.targets.base import Backend
from relaxc.targets.registry import backend_for

# Weights alone become integers for their size, whatever that costs.
_SCHEMES = ("int8", "int8-dynamic")


def has_speed_gate(options: CompileOptions, backend: Backend, warnings: list[str]) -> bool:
    """Whether layers are timed; a target that is not this machine's earns a warning."""
    quantize = options.quantize
    if quantize is None or not quantize.speed_gate or quantize.scheme not in _SCHEMES:
        return False
    if backend.needs_device:
        return False
    here, there = backend_for("llvm").describe(), backend.describe()
    if (here["mcpu"], here["mtriple"]) != (there["mcpu"], there["mtriple"]):
        warnings.append(
            f"layers are quantized without being timed: this CPU is `{here['mcpu']}`, not "
            f"`{there['mcpu']}`; compile there, or exclude layers that are slower"
        )
        return False
    return True


def gate_pass(
    options: CompileOptions,
    backend: Backend,
    quantization: Callable[[QuantizeOptions, Collect], list[Pass]],
    feed: Callable[[], Feed],
    build: Build,
    on_report: Callable[[GateReport], None],
) -> GateQuantization:
    """The pass that leaves slow layers float.

    Args:
        options: of the compilation; it quantizes.
        backend: of this machine.
        quantization: the passes that quantize.
        feed: an input, asked for once the model is read.
        build: makes a module runnable.
        on_report: told what was found.
    """
    quantize = options.quantize
    assert quantize is not None

    def finish(mod: IRModule, left_float: Collection[str] | None) -> IRModule:
        passes: list[Pass] = []
        if left_float is not None:
            exclude = (*quantize.exclude, *map(re.escape, left_float))
            passes = quantization(replace(quantize, exclude=exclude), _made_up)
        rounds = left_float is not None and quantize.scheme == "int8-dynamic"
        every = default_passes(backend.kernels, passes, options.precision, rounds_rows=rounds)
        level, silent = CompileOptions(opt_level=options.opt_level), Diagnostics()
        return PassRunner(silent).run(select_passes(every, level, silent), mod)

    def nodes(mod: IRModule) -> list[str]:
        passes = quantization(quantize, _made_up)
        finders = [p for p in passes if isinstance(p, AnnotateQuantization | QuantizeWeights)]
        return [node for finder in finders for node in finder.nodes(mod)]

    def choose(mod: IRModule) -> list[str]:
        times = KernelTimes(resolve_threads(None))
        return SpeedGate(finish, build, feed(), nodes, times, on_report)(mod)

    return GateQuantization(choose)


def _made_up(instrumented: IRModule) -> dict[int, Histogram]:
    """One range for all, so that layers of equal shape have equal code."""
    found = {number: Histogram() for number in observers(instrumented)}
    for histogram in found.values():
        histogram.add(np.linspace(-1, 1, 256, dtype=np.float32))
    return found


class Peeked:
    """Calibration data whose first sample can be seen before the others are read."""

    def __init__(self, data: CalibrationData | None) -> None:
        self._data = data
        self._rest: Iterable[Feed] | None = None

    def first(self, inputs: Iterable[Mapping[str, Any]]) -> Feed:
        """The first sample; made up where there is none.

        Args:
            inputs: name, dtype and shape of every input, as in the manifest.
        """
        infos = [TensorInfo(e["name"], e["dtype"], tuple(e["shape"])) for e in inputs]
        feeds = iter(self(infos))
        head = list(itertools.islice(feeds, 1))
        self._rest = itertools.chain(head, feeds)
        return head[0] if head else make_feed(infos, {})

    def __call__(self, inputs: Sequence[TensorInfo]) -> Iterable[Feed]:
        """All samples, once."""
        if self._rest is not None:
            return self._rest
        data = self._data if self._data is not None else ()
        return data(inputs) if callable(data) else data
