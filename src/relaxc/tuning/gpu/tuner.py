"""Tunes kernels for GPUs: on this machine's, or by a folder that is measured elsewhere."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relaxc.calibrate import CalibrationData
from relaxc.errors import OptionError, TargetError
from relaxc.targets.cuda.backend import CudaBackend
from relaxc.targets.tuning.history import History
from relaxc.targets.tuning.records import RecordStore, canonical, records_path
from relaxc.targets.tuning.search import has_cost_model, proposals, seeds
from relaxc.targets.tuning.task import Choice
from relaxc.tuning.gpu.driver import Device, DriverError
from relaxc.tuning.gpu.folder import Candidates, write_folder
from relaxc.tuning.gpu.results import records_of
from relaxc.tuning.options import TuneOptions
from relaxc.tuning.plan import Entry, entries_of
from relaxc.tuning.recorded import read_history
from relaxc.tuning.result import TunedKernel, TuneResult
from relaxc.tuning.session import Budget, Watcher
from relaxc.tuning.subject import Model, Subject

# Candidates per kernel that are compiled at once: the next ones learn from these.
ROUND = 12


class GpuTuner:
    """One call of `tune` for a GPU.

    Args:
        model: what to tune.
        options: how.
        watcher: told what happens.
        backend: for which GPU.
        calibration_data, recovery_data: as `compile` takes them.

    Raises:
        OptionError: an option is for CPUs, or the GPU has no kernels of ours.
    """

    def __init__(
        self,
        model: Model,
        options: TuneOptions,
        watcher: Watcher,
        backend: CudaBackend,
        calibration_data: CalibrationData | None,
        recovery_data: CalibrationData | None,
    ) -> None:
        if options.rpc_tracker is not None:
            raise OptionError(
                "TVM's RPC servers measure kernels for CPUs; for a GPU elsewhere, write candidates "
                "with `--candidates`, and read what was measured there with `--measured`"
            )
        if options.threads is not None:
            raise OptionError("a number of threads is for CPUs; leave it out for GPUs")
        if not backend.gpu_target.gpu.has_async_copy:
            raise OptionError(
                f"for `{backend.gpu_target.arch}` there are no kernels of relaxc to tune; "
                "they are for sm_80 and newer"
            )
        self._model, self._data = model, (calibration_data, recovery_data)
        self._options, self._watcher, self._backend = options, watcher, backend
        self._store = RecordStore(records_path(options.records))
        self._budget = Budget(options.trials, options.time_budget_s)
        self._start = time.monotonic()
        self._rng = random.Random(options.seed)
        self._warnings: list[str] = []

    def extract(self) -> None:
        """Find the model's tasks, and what the records say about them."""
        self._history = read_history(self._store, self._warnings)
        self._known = self._trials()
        untuned = self._backend.with_records(History([]))
        options = self._options
        subject = Subject.of(untuned, self._model, options.compile, *self._data, options.checkpoint)
        self._warnings += subject.warnings
        self._entries = entries_of(subject.sites(untuned), None, options.tasks)

    def tune(self) -> TuneResult:
        """Write candidates, read results, or do both and measure in between.

        Raises:
            TargetError: there is no GPU here, or no compiler.
            InputError, OutputError: a folder cannot be read or written.
        """
        options = self._options
        if options.measured is not None:
            fresh = records_of(options.measured)
            self._watcher.phase("reading the model")
            self.extract()
            known = {canonical(r) for r in self._store.read().records}
            self._store.append(r for r in fresh if canonical(r) not in known)
            return self._reread("measured")
        if options.candidates is None:
            _require_gpu()
        self._watcher.phase("reading the model")
        self.extract()
        stopped = self._budget.is_spent(self._entries, self._history)
        if stopped is not None:
            return self.result(stopped, None)
        if options.candidates is not None:
            left = options.time_budget_s - self._budget.spent(self._entries, self._history)[1]
            count = self._write(options.candidates, left)
            return self.result("candidates", None, options.candidates, count)
        return self._tune_here()

    def _tune_here(self) -> TuneResult:
        left = self._options.time_budget_s - self._budget.spent(self._entries, self._history)[1]
        end = self._start + left
        while True:
            stopped = self._budget.is_spent(self._entries, self._history)
            if stopped is None and time.monotonic() >= end:
                stopped = "time"
            if stopped is not None:
                return self.result(stopped, None)
            with tempfile.TemporaryDirectory(prefix="relaxc-") as scratch:
                folder = Path(scratch, "candidates")
                self._write(folder, max(0.0, end - time.monotonic()))
                self._watcher.phase("measuring on the GPU")
                try:
                    measure_here(folder, max(0.0, end - time.monotonic()))
                finally:  # what was measured before it was interrupted is measured
                    if (folder / "measured.jsonl").exists():
                        self._store.append(records_of(folder))
            before = self._trials()
            self._history = read_history(self._store, [])
            if self._trials() == before:
                return self.result("time", None)

    def _write(self, folder: Path, seconds: float) -> int:
        self._watcher.phase("compiling candidates")
        wanted = self._chosen()
        arch = self._backend.gpu_target.arch
        return write_folder(folder, arch, seconds, wanted, self._watcher.phase)

    def _chosen(self) -> list[Candidates]:
        """The next candidates of every kernel, as many as there are trials left."""
        left = len(self._entries) * ROUND
        if self._options.trials is not None:
            left = self._options.trials - self._budget.spent(self._entries, self._history)[0]
        rounds = [
            (entry, self._next(entry)) for entry in self._entries if entry.is_open(self._history)
        ]
        counts = [0] * len(rounds)
        for number in range(ROUND):  # in turns, so that no kernel goes without
            for place, (_, choices) in enumerate(rounds):
                if left > 0 and number < len(choices):
                    counts[place] += 1
                    left -= 1
        return [
            Candidates(entry.site, entry.calls, choices[:count])
            for (entry, choices), count in zip(rounds, counts)
            if count
        ]

    def _next(self, entry: Entry) -> list[Choice]:
        if self._history.trials(entry.task):
            return proposals(
                *(entry.task, entry.space, self._history, ROUND, self._rng, has_cost_model())
            )
        # The first are what won elsewhere, and what the kernels think likely themselves.
        similar = [c for c in seeds(entry.task, self._history) if c in entry.space]
        ranked = [*similar[: ROUND // 2], *entry.space[1:]]
        unique = {canonical(choice): choice for choice in ranked}
        unique.pop(canonical(entry.space[0]), None)
        return list(unique.values())[:ROUND]

    def _trials(self) -> int:
        return sum(len(self._history.trials(task)) for task in self._history.tasks.values())

    def _reread(self, stopped: str) -> TuneResult:
        self._history = read_history(self._store, [])
        return self.result(stopped, None)

    def result(
        self,
        stopped: str,
        _known: dict[str, Any] | None,
        folder: Path | None = None,
        count: int = 0,
    ) -> TuneResult:
        """What is known now."""
        trials, seconds = self._budget.spent(self._entries, self._history)
        return TuneResult(
            records=self._store.path,
            kernels=tuple(self._kernel(entry) for entry in self._entries),
            before_s=None,
            after_s=None,
            ratio=None,
            trials=self._trials() - self._known,
            known_trials=trials,
            spent_s=seconds,
            seconds=time.monotonic() - self._start,
            stopped=stopped,
            warnings=tuple(self._warnings),
            folder=folder,
            candidates=count,
        )

    def _kernel(self, entry: Entry) -> TunedKernel:
        trials = self._history.trials(entry.task)
        times = [float(t["untuned_seconds"]) for t in trials if "untuned_seconds" in t]
        before = statistics.median(times) * entry.calls if times else None
        return TunedKernel.of(entry, self._history, before)


def measure_here(folder: Path, seconds: float) -> None:
    """Measure a folder on this machine's GPU, in a process of its own.

    Raises:
        TargetError: it fails.
    """
    command: Sequence[str] = (sys.executable, str(folder / "measure.py"), "--seconds", f"{seconds}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise TargetError(f"the GPU cannot be measured: {lines[-1].removeprefix('error: ')}")


def _require_gpu() -> None:
    try:
        Device()
    except DriverError as err:
        raise TargetError(
            f"kernels for GPUs are measured on one, but {err}; write candidates with "
            "`--candidates DIR`, measure them where the GPU is, and read them with `--measured DIR`"
        ) from err
