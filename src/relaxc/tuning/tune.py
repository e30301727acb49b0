"""tune(): measures a model's kernels, and leaves records that `compile` uses."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from relaxc.calibrate import CalibrationData
from relaxc.errors import OptionError, TargetError
from relaxc.measure.roofline import roofline
from relaxc.runtime.model import Model as LoadedModel
from relaxc.runtime.session import load
from relaxc.targets.cuda.backend import CudaBackend
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.llvm.machine import machine_of
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import VERDICT, Decider, Decision, History
from relaxc.targets.tuning.records import Fields, RecordStore, records_path
from relaxc.targets.tuning.task import EPILOGUE, Choice, Task
from relaxc.tuning.finals import FINALISTS, play, play_alone, settled
from relaxc.tuning.gpu.tuner import GpuTuner
from relaxc.tuning.job import Job
from relaxc.tuning.measure import MeasureOptions, Measurer
from relaxc.tuning.options import TuneOptions
from relaxc.tuning.plan import Entry, entries_of
from relaxc.tuning.recorded import read_history
from relaxc.tuning.remote import RemoteRunner
from relaxc.tuning.result import TunedKernel, TuneResult
from relaxc.tuning.session import Budget, Runner, Session, Stopped, Watcher
from relaxc.tuning.subject import Model, Subject
from relaxc.tuning.verify import Comparison, Feed, compare_artifacts, costs, race_artifacts

# To find out what an inference takes, for the progress line.
_RUNS = 8
Runners = Callable[[MeasureOptions], AbstractContextManager[Runner]]
# What the finals take, in builds of the model: one per finalist and one of the winners.
_BUILDS = 1.3 * (FINALISTS + 1)


def tune(
    model: str | os.PathLike[str] | onnx.ModelProto,
    options: TuneOptions | None = None,
    watcher: Watcher | None = None,
    calibration_data: CalibrationData | None = None,
    recovery_data: CalibrationData | None = None,
) -> TuneResult:
    """Measure a model's kernels; `compile` uses what is found.

    Those for GPUs may be compiled here and measured elsewhere: see the options.

    Args:
        model: path of the ONNX file, or a model in memory.
        options: what to tune, and for how long.
        watcher: told what happens.
        calibration_data, recovery_data: for quantization and pruning, as `compile` takes them.

    Raises:
        ModelError: the model is unreadable, invalid or unsupported.
        OptionError: an option makes no sense.
        InputError: the data does not fit the model.
        TargetError: the target is not this machine; or a GPU, and this machine has none.
        RecordsError, OutputError: the records cannot be read or written.
    """
    options, watcher = options or TuneOptions(), watcher or Watcher()
    return _tuner(model, options, watcher, calibration_data, recovery_data).tune()


def dry_run(
    model: str | os.PathLike[str] | onnx.ModelProto,
    options: TuneOptions,
    calibration_data: CalibrationData | None = None,
    recovery_data: CalibrationData | None = None,
) -> TuneResult:
    """What `tune` would do, without a measurement."""
    tuner = _tuner(model, options, Watcher(), calibration_data, recovery_data)
    tuner.extract()
    return tuner.result("dry run", None)


def _tuner(
    model: Model,
    options: TuneOptions,
    watcher: Watcher,
    calibration_data: CalibrationData | None,
    recovery_data: CalibrationData | None,
) -> _Tuner | GpuTuner:
    backend = backend_for(options.compile.target).with_precision(options.compile.precision)
    data = calibration_data, recovery_data
    if isinstance(backend, CudaBackend):
        return GpuTuner(model, options, watcher, backend, *data)
    assert isinstance(backend, LlvmBackend)
    if options.candidates is not None or options.measured is not None:
        raise OptionError(
            "folders of candidates are for GPUs; kernels for CPUs are measured on this machine, "
            "or on others with `--rpc-tracker`"
        )
    return _Tuner(model, options, watcher, backend, *data)


class _Tuner:
    def __init__(
        self,
        model: Model,
        options: TuneOptions,
        watcher: Watcher,
        backend: LlvmBackend,
        calibration_data: CalibrationData | None,
        recovery_data: CalibrationData | None,
    ) -> None:
        if options.threads is not None:
            backend = backend.with_cores(options.threads)
        self.model = model
        self.data = calibration_data, recovery_data
        self.options = options
        self.watcher = watcher
        self.backend = backend
        self.machine = machine_of(backend.target)
        self.threads = self.machine.cores
        self.store = RecordStore(records_path(options.records))
        self.start = time.monotonic()
        self.trials = 0
        self.used_s = 0.0
        self.warnings: list[str] = []
        self.least_s: dict[str, float | None] = {}

    def extract(self) -> None:
        """Find the model's tasks, and what the records say about them."""
        self.history = read_history(self.store, self.warnings)
        untuned = self.backend.with_records(History([]))
        self.subject = Subject.of(
            untuned, self.model, self.options.compile, *self.data, self.options.checkpoint
        )
        self.warnings += self.subject.warnings
        sites = self.subject.sites(untuned)
        self.entries = entries_of(sites, self.machine, self.options.tasks)
        context = self.entries[0].task.context if self.entries else {}
        tasks = sorted(entry.task.key for entry in self.entries)
        about = {"kernel": "model", "sha256": self.subject.sha256, "tasks": tasks, EPILOGUE: []}
        self.task = Task(about, {k: v for k, v in context.items() if k != "space"})

    def tune(self) -> TuneResult:
        self.watcher.phase("reading the model")
        self.extract()
        budget = Budget(self.options.trials, self.options.time_budget_s)
        stopped = budget.is_spent(self.entries, self.history)
        # Time goes into builds and comparisons, too, which trials know nothing of.
        used_s = float((self._known() or {}).get("budget_s", 0.0))
        if stopped is None and used_s >= self.options.time_budget_s:
            stopped = "time"
        if not self.entries or (stopped is not None and self._is_judged()):
            return self.result(stopped or "done", self._known())
        used_s = max(used_s, budget.spent(self.entries, self.history)[1])
        left = self.options.time_budget_s - used_s
        if self.options.rpc_tracker is not None or self.subject.is_program:
            return self.result(self._tune_alone(self._runners(), budget, left), None)
        with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
            untuned = Path(folder, "untuned.rxc")
            self.watcher.phase("compiling the untuned model")
            build_s = self._build(untuned, History([]))
            self._weigh(untuned)
            end = self.start + max(left - _BUILDS * build_s, 0.5 * left)
            with Measurer(str(self.backend.target), self._measuring()) as runner:
                stopped = self._search(runner, budget, end)
            self._finals(untuned, Path(folder))
        return self.result(stopped, self._known())

    def _runners(self) -> Runners:
        """What measures kernels: devices of a tracker, or this machine."""
        tracker, key = self.options.rpc_tracker, self.options.rpc_key
        if tracker is not None:
            return lambda options: RemoteRunner(self.backend, tracker, key, options)
        return lambda options: Measurer(str(self.backend.target), options)

    def _measuring(self) -> MeasureOptions:
        return MeasureOptions(threads=self.threads)

    def _search(self, runner: Runner, budget: Budget, end: float) -> Stopped:
        session = Session(
            self.entries, self.machine, runner, self.store, self.history, self.options.seed
        )
        self.watcher.phase("tuning")
        stopped = session.run(budget, self.watcher.progress, self.total_s, end)
        self.trials = session.trials
        self.used_s = self.options.time_budget_s if stopped == "time" else 0.0
        return stopped

    def _tune_alone(self, make: Runners, budget: Budget, left_s: float) -> Stopped:
        """Tune where only kernels can be timed, not the kernels of a model; write the verdicts."""
        options = self._measuring()
        with make(options) as runner:
            self.watcher.phase("measuring the untuned kernels")
            for entry in self.entries:
                answer = runner.begin(self._job(entry, entry.space[0]))
                if answer["outcome"] != "ok":
                    raise TargetError(f"{entry.task} cannot be measured: {answer.get('detail')}")
                entry.seconds = entry.calls * float(answer["seconds"])
            self.total_s = sum(entry.seconds for entry in self.entries)
            stopped = self._search(runner, budget, self.start + left_s)
        thorough = replace(options, pairs=4 * options.pairs, least_s=4 * options.least_s)
        self.watcher.phase("measuring the best once more")
        with make(thorough) as runner:

            def measure(entry: Entry, choices: list[Choice]) -> list[Fields]:
                runner.begin(self._job(entry, entry.space[0]))
                found = dict(runner.trials(self._job(entry, choice) for choice in choices))
                return [found[place] for place in range(len(choices))]

            won = play_alone(self.entries, self.history, measure)
        won, compared = self._together(won)
        self._write_verdicts(won)
        self._write(self.task, {}, self._table(compared))
        return stopped

    def _together(self, won: dict[str, Decision]) -> tuple[dict[str, Decision], Comparison]:
        """What of it pays in the whole model; all of it where that cannot run."""
        if self.options.rpc_tracker is not None:
            ratios = {key: decision.ratio for key, decision in won.items()}
            after_s = sum(e.seconds * ratios.get(e.task.key, 1.0) for e in self.entries)
            return won, Comparison({}, self.total_s, after_s, after_s / self.total_s)
        self.watcher.phase("comparing the tuned model with the untuned one")
        with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
            untuned, tuned = Path(folder, "untuned.rxc"), Path(folder, "tuned.rxc")
            self._build(untuned, History([]))
            feed = self.options.feed.feed(load(untuned).inputs)

            def race(decider: Decider) -> Comparison:
                self._build(tuned, decider)
                return race_artifacts(untuned, tuned, feed, self.threads)

            return settled(won, race)

    def _job(self, entry: Entry, choice: Choice) -> Job:
        return Job.of(entry.site, choice, self.machine)

    def _build(self, output: Path, decider: Decider) -> float:
        begin = time.monotonic()
        self.subject.write(self.backend.with_records(decider), output)
        return time.monotonic() - begin

    def _weigh(self, untuned: Path) -> None:
        """Find out where the model's time is."""
        model = load(untuned, threads=self.threads)
        self.feed = self.options.feed.feed(model.inputs)
        try:
            peaks = roofline(self.threads)
        except TargetError:
            peaks = None
        found = costs(model, self.feed, peaks)
        self.total_s = min(_timed(model, self.feed) for _ in range(_RUNS))
        for entry in self.entries:
            cost = found.get(entry.task.key)
            if cost is not None:
                entry.seconds = cost.seconds
                self.least_s[entry.task.key] = cost.least_s

    def _finals(self, untuned: Path, folder: Path) -> None:
        """Compare the best candidates inside of the model, and write the verdicts."""

        def compare(decider: Decider) -> Comparison:
            tuned = folder / "tuned.rxc"
            self._build(tuned, decider)
            compared = compare_artifacts(untuned, tuned, self.feed, self.threads)
            tuned.unlink()
            return compared

        self.watcher.phase("comparing the best inside of the model")
        won, compared = play(self.entries, self.history, compare)
        self._write_verdicts(won)
        self._write(self.task, {}, self._table(compared))

    def _write_verdicts(self, won: Mapping[str, Decision]) -> None:
        for entry in self.entries:
            decision = won.get(entry.task.key)
            if decision is not None and decision.choice is not None:
                self._write(entry.task, dict(decision.choice), {"ratio": float(decision.ratio)})
            elif self.history.trials(entry.task):
                self._write(entry.task, {}, {"ratio": 1.0})

    def _write(self, task: Task, choice: dict[str, Any], more: dict[str, Any]) -> None:
        record = {
            "kind": VERDICT,
            "workload": task.workload,
            "context": task.context,
            "choice": choice,
            "at": time.time_ns() // 1_000_000,
            **more,
        }
        self.store.append([record])
        self.history.add(record)

    def _table(self, compared: Comparison | None) -> dict[str, Any]:
        total = compared.before_s if compared is not None else self.total_s
        return {
            "ratio": 1.0 if compared is None else float(compared.ratio),
            "budget_s": self.used_s,
            "before_s": total,
            "after_s": total if compared is None else compared.after_s,
            "kernels": {
                entry.task.key: [entry.seconds, self.least_s.get(entry.task.key)]
                for entry in self.entries
            },
        }

    def _is_judged(self) -> bool:
        """Whether this model has been compared since the last trial."""
        known = self.history.verdict(self.task)
        if known is None:
            return False
        trials = [t for entry in self.entries for t in self.history.trials(entry.task)]
        return bool(known["at"] >= max((t["at"] for t in trials), default=0))

    def _known(self) -> dict[str, Any] | None:
        known = self.history.verdict(self.task)
        return None if known is None else dict(known)

    def result(self, stopped: str, known: dict[str, Any] | None) -> TuneResult:
        """What is known now."""
        known = known or self._known() or {}
        parts = known.get("kernels", {})
        total = float(known.get("before_s", 0.0)) or None
        budget = Budget(self.options.trials, self.options.time_budget_s)
        trials, seconds = budget.spent(self.entries, self.history)
        return TuneResult(
            records=self.store.path,
            kernels=tuple(
                TunedKernel.of(entry, self.history, before, least, total)
                for entry in self.entries
                for before, least in [parts.get(entry.task.key, (None, None))]
            ),
            before_s=total,
            after_s=known.get("after_s"),
            ratio=known.get("ratio"),
            trials=self.trials,
            known_trials=trials,
            spent_s=seconds,
            seconds=time.monotonic() - self.start,
            stopped=stopped,
            warnings=tuple(self.warnings),
        )


def _timed(model: LoadedModel, feed: Feed) -> float:
    begin = time.perf_counter()
    model.run(feed)
    return time.perf_counter() - begin
