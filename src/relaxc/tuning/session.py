"""The search: measures candidates where the model's time is, until the budget is spent."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from relaxc.targets.llvm.machine import Machine
from relaxc.targets.tuning.history import TRIAL, History, wins
from relaxc.targets.tuning.records import Fields, RecordStore
from relaxc.targets.tuning.search import has_cost_model, next_task, proposals
from relaxc.targets.tuning.task import Choice
from relaxc.tuning.job import Job
from relaxc.tuning.plan import Entry

# Trials between two looks at which task comes next.
_BATCH = 8

# The place of a candidate, and what came of it.
Answer = tuple[int, dict[str, Any]]


class Runner(Protocol):
    """Measures candidates: in a child process, or on other machines."""

    def begin(self, untuned: Job) -> dict[str, Any]:
        """Begin a task; the untuned kernel is what candidates are compared with."""

    def trials(self, candidates: Iterable[Job]) -> Iterator[Answer]:
        """Answers to candidates, with their places, as they come."""


Stopped = Literal["done", "trials", "time"]


@dataclass(frozen=True)
class Budget:
    """What may be spent, past calls included.

    Attributes:
        trials: None: any number.
        seconds: of the clock.
    """

    trials: int | None
    seconds: float

    def spent(self, entries: Sequence[Entry], history: History) -> tuple[int, float]:
        """Trials and seconds that the records tell of."""
        trials = [t for entry in entries for t in history.trials(entry.task)]
        return len(trials), sum(float(t.get("spent", 0.0)) for t in trials)

    def is_spent(self, entries: Sequence[Entry], history: History) -> Stopped | None:
        """Which part is used up; `done` if nothing is left to try."""
        trials, seconds = self.spent(entries, history)
        if not any(entry.is_open(history) for entry in entries):
            return "done"
        if self.trials is not None and trials >= self.trials:
            return "trials"
        return "time" if seconds >= self.seconds else None


@dataclass
class Progress:
    """What a search is at, for whoever watches.

    Attributes:
        entry: the kernel.
        best: the least ratio to the untuned kernel so far.
        trials: measured in this call.
        elapsed_s, left_s: of the budget.
        saved_s: by all kernels together, per inference.
        total_s: an inference, untuned.
    """

    entry: Entry
    best: float
    trials: int
    elapsed_s: float
    left_s: float
    saved_s: float
    total_s: float


@dataclass(frozen=True)
class Watcher:
    """Told what happens.

    Attributes:
        phase: the name of each phase, as it begins.
        progress: after every few trials.
    """

    phase: Callable[[str], None] = lambda _name: None
    progress: Callable[[Progress], None] = lambda _progress: None


class Session:
    """One search."""

    def __init__(
        self,
        entries: Sequence[Entry],
        machine: Machine,
        runner: Runner,
        store: RecordStore,
        history: History,
        seed: int,
    ) -> None:
        self.entries = entries
        self.history = history
        self.trials = 0
        self._machine = machine
        self._runner = runner
        self._store = store
        self._rng = random.Random(seed)
        self._has_model = has_cost_model()

    def run(
        self, budget: Budget, watch: Callable[[Progress], None], total_s: float, end: float
    ) -> Stopped:
        """Measure until nothing is left, of the budget or to try.

        Args:
            budget: what may be spent.
            watch: is told of every batch.
            total_s: an inference, untuned.
            end: of the clock `time.monotonic`, for this call.
        """
        by_key = {entry.task.key: entry for entry in self.entries}
        shares = {key: entry.seconds for key, entry in by_key.items()}
        start = time.monotonic()
        while True:
            stopped = budget.is_spent(self.entries, self.history)
            if stopped is not None:
                return stopped
            if time.monotonic() >= end:
                return "time"
            idle = {key: entry.idle(self.history) for key, entry in by_key.items()}
            open_ = [key for key, entry in by_key.items() if entry.is_open(self.history)]
            entry = by_key[next_task(shares, idle, open_)]
            count = _BATCH
            if budget.trials is not None:
                count = min(count, budget.trials - budget.spent(self.entries, self.history)[0])
            self._batch(entry, count, end)
            now = time.monotonic()
            saved = sum(e.seconds * (1 - self.best(e)) for e in self.entries)
            watch(
                Progress(
                    entry, self.best(entry), self.trials, now - start, end - now, saved, total_s
                )
            )

    def best(self, entry: Entry) -> float:
        """The least ratio of a kernel to itself without tuning."""
        found = [float(t["ratio"]) for t in self.history.trials(entry.task) if wins(t)]
        return min(found, default=1.0)

    def _batch(self, entry: Entry, count: int, end: float) -> None:
        begin = time.monotonic()
        chosen = proposals(entry.task, entry.space, self.history, count, self._rng, self._has_model)
        untuned = Job.of(entry.site, entry.space[0], self._machine)
        ready = self._runner.begin(untuned)["outcome"] == "ok"
        jobs = (Job.of(entry.site, choice, self._machine) for choice in chosen)
        failed: Iterator[Answer] = ((n, {"outcome": "failed"}) for n in range(len(chosen)))
        for place, answer in self._runner.trials(jobs) if ready else failed:
            choice = chosen[place]
            now = time.monotonic()
            # What it took to begin is on the first candidate's account.
            self._add(entry, choice, {**answer, "spent": round(now - begin, 3)})
            self.trials += 1
            begin = now
            if now >= end:
                return

    def _add(self, entry: Entry, choice: Choice, more: Fields) -> None:
        record = {
            "kind": TRIAL,
            "workload": entry.task.workload,
            "context": entry.task.context,
            "choice": dict(choice),
            "at": time.time_ns() // 1_000_000,
            **more,
        }
        self._store.append([record])
        self.history.add(record)
