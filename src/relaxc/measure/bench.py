"""How fast an artifact is: load, first inference, latency and throughput."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from relaxc.artifact import Manifest
from relaxc.errors import OptionError, TargetError
from relaxc.measure.feeds import FeedOptions
from relaxc.measure.machine import Machine, peak_memory_bytes, this_machine
from relaxc.measure.profile import Profile, profile
from relaxc.measure.roofline import Roofline, roofline
from relaxc.measure.sampling import ms_since, repeat_for, sample
from relaxc.runtime.session import load

_PROFILED_RUNS, _MOST_PROFILED_RUNS = 10, 1000


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to measure.

    Attributes:
        warmup_ms: time to run before measuring.
        duration_s: time to measure at least.
        iterations: samples to take at least, per stream.
        number: inferences per sample; a sample's latency is their mean.
        percentiles: which to report, in percent.
        threads: threads per inference; one per core by default.
        device: where to run; what the artifact is for by default.
        transfers: whether inputs come from the host and outputs go there, or stay on the GPU.
        streams: callers that run inferences at the same time.
        feed: the inputs.
        profile: also time every kernel, in inferences of their own.
    """

    warmup_ms: float = 200
    duration_s: float = 3
    iterations: int = 10
    number: int = 1
    percentiles: tuple[float, ...] = (90, 95, 99)
    threads: int | None = None
    device: str | None = None
    transfers: bool = True
    streams: int = 1
    feed: FeedOptions = field(default_factory=FeedOptions)
    profile: bool = False

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.number < 1 or self.streams < 1:
            raise OptionError("iterations, number and streams must be at least 1")
        if not (0 <= self.warmup_ms < math.inf and 0 <= self.duration_s < math.inf):
            raise OptionError("warmup and duration must not be negative or infinite")
        if not all(0 < p <= 100 for p in self.percentiles):
            raise OptionError("percentiles must lie between 0 and 100")


@dataclass(frozen=True)
class BenchResult:
    """What was measured.

    Attributes:
        manifest: of the artifact.
        machine: where and under which load.
        threads: threads per inference.
        device: where the model ran.
        transfers: whether copies between host and GPU count; None on the CPU, which has none.
        streams: callers at the same time.
        shapes: input name -> the dimensions that were run.
        latencies_ms: one per sample.
        wall_s: time from the first sample's begin to the last one's end.
        inferences: how many ran in that time.
        percentiles: which to report.
        load_ms: opening, verifying and loading the artifact.
        first_ms: the first inference.
        peak_memory_bytes: of the whole process.
        profile: the kernels' times; None unless asked for.
        roofline: what this machine can do at that thread count; None if it was not measured.
    """

    manifest: Manifest
    machine: Machine
    threads: int
    device: str
    transfers: bool | None
    streams: int
    shapes: dict[str, tuple[int, ...]]
    latencies_ms: np.ndarray
    wall_s: float
    inferences: int
    percentiles: tuple[float, ...]
    load_ms: float
    first_ms: float
    peak_memory_bytes: int
    profile: Profile | None = None
    roofline: Roofline | None = None

    @property
    def throughput(self) -> float:
        """Inferences per second."""
        return self.inferences / self.wall_s

    @property
    def variation(self) -> float:
        """The coefficient of variation of the latency."""
        return float(self.latencies_ms.std() / self.latencies_ms.mean())

    @property
    def is_unsteady(self) -> bool:
        """Whether the latency varies a lot."""
        return self.variation > 0.1

    @property
    def is_noisy(self) -> bool:
        """Whether the numbers deserve little trust."""
        return self.is_unsteady or self.machine.is_busy


def bench(path: str | os.PathLike[str], options: BenchOptions) -> BenchResult:
    """Measure an artifact.

    Raises:
        ArtifactError: it cannot be loaded.
        InputError: the inputs do not fit it.
        OptionError: an option makes no sense.
    """
    machine = this_machine()
    start = time.perf_counter()
    model = load(path, options.device, options.threads)
    if not options.transfers and model.device == "cpu":
        raise OptionError("the artifact runs on the CPU, where there are no transfers to leave out")
    load_ms = ms_since(start)
    feed: Mapping[str, Any] = options.feed.feed(model.inputs)
    shapes = {name: array.shape for name, array in feed.items()}
    if not options.transfers:
        feed = {name: model.put(array, name) for name, array in feed.items()}

    def run() -> None:
        model.run(feed)

    def run_to_the_end() -> None:
        run()
        model.synchronize()

    start = time.perf_counter()
    run_to_the_end()
    first_ms = ms_since(start)
    repeat_for(run_to_the_end, options.warmup_ms / 1e3)
    start = time.perf_counter()
    samples = sample(
        run,
        duration_s=options.duration_s,
        iterations=options.iterations,
        number=options.number,
        streams=options.streams,
        finish=model.synchronize,
    )
    wall_s = time.perf_counter() - start
    peak = peak_memory_bytes()
    profiled, bounds = None, None
    if options.profile:
        fastest_s = min(float(times.min()) for times in samples) / 1e3
        profiled = profile(model, feed, _profiled_runs(fastest_s, options.duration_s))
        bounds = _bounds(model.threads)
    return BenchResult(
        manifest=model.manifest,
        machine=machine,
        threads=model.threads,
        device=model.device,
        transfers=None if model.device == "cpu" else options.transfers,
        streams=options.streams,
        shapes=shapes,
        latencies_ms=np.concatenate(samples),
        wall_s=wall_s,
        inferences=options.number * sum(map(len, samples)),
        percentiles=options.percentiles,
        load_ms=load_ms,
        first_ms=first_ms,
        peak_memory_bytes=peak,
        profile=profiled,
        roofline=bounds,
    )


def _profiled_runs(fastest_s: float, duration_s: float) -> int:
    """So many that the fastest of them is not disturbed, in about the time asked for."""
    return max(_PROFILED_RUNS, min(_MOST_PROFILED_RUNS, int(duration_s / fastest_s)))


def _bounds(threads: int) -> Roofline | None:
    try:
        return roofline(threads)
    except TargetError:  # no compiler, as on a machine that only runs models
        return None
