"""Several artifacts and engines on the same inputs, taking turns.

A machine's speed drifts with its temperature and its neighbours. Contenders that take turns meet
the same conditions, so their ratios hold where their times don't.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relaxc import cpu
from relaxc.artifact import is_artifact
from relaxc.errors import InputError, OptionError
from relaxc.measure.bench import BenchOptions
from relaxc.measure.compare import Tolerance, compare
from relaxc.measure.contenders import (
    ONNXRUNTIME,
    Contender,
    Feed,
    has_openvino,
    onnxruntime_contender,
    openvino_contender,
    relaxc_contender,
)
from relaxc.measure.machine import Machine, this_machine
from relaxc.measure.sampling import ms_since, repeat_for, sample
from relaxc.runtime.session import load

_ROUNDS = 6
# Threads that a library leaves spinning would slow the next one's first runs.
_PAUSE_S = 0.02


@dataclass(frozen=True)
class Lap:
    """What one contender did.

    Attributes:
        engine: its name, and the precision where it has several.
        version: of the engine.
        path: the file it ran.
        load_ms: from the file to a model that runs.
        latencies_ms: one per sample.
        throughput: inferences per second.
        max_rel: largest difference of any output from the reference's, relative to that output's
            largest value; 0 for the reference.
        cosine: least cosine between an output and the reference's.
    """

    engine: str
    version: str
    path: Path
    load_ms: float
    latencies_ms: np.ndarray
    throughput: float
    max_rel: float
    cosine: float


@dataclass(frozen=True)
class RaceResult:
    """All contenders' measurements.

    Attributes:
        machine: where and under which load.
        threads: threads per inference.
        streams: callers at the same time.
        shapes: input name -> dimensions.
        laps: in the order in which the contenders were given.
        reference: position of the one that outputs and times are compared with: ONNX Runtime where
            a model was given, else the first.
        percentiles: which to report.
    """

    machine: Machine
    threads: int
    streams: int
    shapes: Mapping[str, tuple[int, ...]]
    laps: tuple[Lap, ...]
    reference: int
    percentiles: tuple[float, ...]


def race(paths: Sequence[Path], options: BenchOptions, rounds: int = _ROUNDS) -> RaceResult:
    """Measure artifacts, and models in ONNX Runtime and OpenVINO, in turns.

    Args:
        paths: artifacts and ONNX models; one artifact at least. Models are run in ONNX Runtime,
            and in OpenVINO where it is installed.
        options: how to measure; the time is that of each contender.
        rounds: how often each has its turn.

    Raises:
        OptionError: no artifact, or an option that makes no sense here.
        InputError: the contenders have other inputs or outputs than the first artifact.
        TargetError: ONNX Runtime is not installed.
        ModelError: an engine refuses a model.
    """
    artifacts = [path for path in paths if is_artifact(path)]
    if not artifacts:
        raise OptionError("none of the files is an artifact; compile one of them first")
    if options.profile or not options.transfers:
        raise OptionError("kernels and transfers are told apart for one artifact only; give one")
    machine = this_machine()
    threads = options.threads or cpu.available_cores()
    feed = options.feed.feed(load(artifacts[0], options.device, threads).inputs)
    makers = [make for path in paths for make in _makers(path, threads, feed, options)]
    laps = race_contenders(makers, feed, options, rounds)
    return RaceResult(
        machine=machine,
        threads=threads,
        streams=options.streams,
        shapes={name: array.shape for name, array in feed.items()},
        laps=laps,
        reference=_reference([lap.engine for lap in laps]),
        percentiles=options.percentiles,
    )


def race_contenders(
    makers: Sequence[Callable[[], Contender]], feed: Feed, options: BenchOptions, rounds: int
) -> tuple[Lap, ...]:
    """Load contenders and let them take turns.

    Raises:
        InputError: a contender does not take these inputs, or has other outputs.
        ModelError: an engine refuses a model.
    """
    runners = [_Runner(make, feed) for make in makers]
    for runner in runners:
        repeat_for(runner.run, options.warmup_ms / 1e3)
    for _ in range(rounds):
        for runner in runners:
            runner.take_turn(options, rounds)
    reference = runners[_reference([runner.contender.engine for runner in runners])]
    return tuple(runner.lap(reference) for runner in runners)


def _reference(engines: Sequence[str]) -> int:
    return engines.index(ONNXRUNTIME) if ONNXRUNTIME in engines else 0


def _makers(
    path: Path, threads: int, feed: Feed, options: BenchOptions
) -> Iterator[Callable[[], Contender]]:
    """Ways to run a file."""
    if is_artifact(path):
        yield lambda: relaxc_contender(path, threads, options.device)
        return
    yield lambda: onnxruntime_contender(path, threads)
    if has_openvino():
        for is_float32 in (True, False):
            yield functools.partial(
                openvino_contender,
                path,
                threads,
                feed,
                is_float32=is_float32,
                streams=options.streams,
            )


class _Runner:
    """A contender, what it computes, and its times so far."""

    def __init__(self, make: Callable[[], Contender], feed: Feed) -> None:
        start = time.perf_counter()
        self.contender = make()
        self.load_ms = ms_since(start)
        self._feed = feed
        try:
            self._outputs = {name: a.copy() for name, a in self.contender.run(feed).items()}
        except Exception as err:  # each engine has its own
            raise InputError(
                f"{self.contender.engine} cannot run `{self.contender.path}` on these inputs: "
                f"{str(err).strip().splitlines()[0]}"
            ) from err
        self._times: list[np.ndarray] = []
        self._wall_s = 0.0
        self._inferences = 0

    def run(self) -> None:
        self.contender.run(self._feed)

    def take_turn(self, options: BenchOptions, rounds: int) -> None:
        time.sleep(_PAUSE_S)
        self.run()
        start = time.perf_counter()
        taken = sample(
            self.run,
            duration_s=options.duration_s / rounds,
            iterations=math.ceil(options.iterations / rounds),
            number=options.number,
            streams=options.streams,
        )
        self._wall_s += time.perf_counter() - start
        self._times += taken
        self._inferences += options.number * sum(map(len, taken))

    def lap(self, reference: _Runner) -> Lap:
        theirs = reference._outputs
        if self._outputs.keys() != theirs.keys():
            raise InputError(
                f"the outputs of `{self.contender.path}` ({', '.join(self._outputs)}) are not "
                f"those of `{reference.contender.path}` ({', '.join(theirs)}); "
                "give artifacts of one model"
            )
        found = [compare(n, a, theirs[n], Tolerance()) for n, a in self._outputs.items()]
        latencies = np.concatenate(self._times)
        return Lap(
            engine=self.contender.engine,
            version=self.contender.version,
            path=self.contender.path,
            load_ms=self.load_ms,
            latencies_ms=latencies,
            throughput=self._inferences / self._wall_s,
            max_rel=max(agreement.max_rel for agreement in found),
            cosine=min(agreement.cosine for agreement in found),
        )
