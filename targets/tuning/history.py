"""What the records say about a task: what was tried, and what is worth using.

Two kinds of records share their fields `workload` and `context`:

    trial     a candidate was run beside the kernel that is used without tuning: `choice`, `outcome`
              and, if that is `ok`, `ratio` (of the two times, below one is faster) and `noise`
    verdict   a task's best candidates were compared with its untuned kernel once more, inside of a
              whole model; an empty `choice` says that the kernel stays as it is without tuning

The latest verdict counts. Where there is none yet, because a search was cut short, the best trial
counts if it is faster beyond its noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from relaxc.targets.tuning.records import Fields, canonical
from relaxc.targets.tuning.task import EPILOGUE, Choice, Task

TRIAL, VERDICT = "trial", "verdict"
# A candidate must save so much, at least, and twice its noise.
LEAST_GAIN = 0.02


@dataclass(frozen=True)
class Decision:
    """What a task's kernel should be.

    Attributes:
        choice: its parameters; None keeps those that it has without tuning.
        ratio: of its time to that without tuning, as measured last.
        task: whose records say so; another one than asked for if only its epilogue differs.
    """

    choice: Choice | None
    ratio: float
    task: Task


class Decider(Protocol):
    """What was measured, as far as compiling asks for it."""

    def decide(self, task: Task) -> Decision | None:
        """What to use for a task; None if nothing is known of it."""


class History:
    """Records, sorted by task.

    Args:
        records: as they come from the file; those that are none of ours are counted and skipped.
    """

    def __init__(self, records: Iterable[Fields]) -> None:
        self.tasks: dict[str, Task] = {}
        self.foreign = 0
        self._trials: dict[str, list[Fields]] = {}
        self._verdicts: dict[str, list[Fields]] = {}
        self._families: dict[str, list[str]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Fields) -> None:
        """Take one more record into account."""
        if not is_record(record):
            self.foreign += 1
            return
        task = Task(record["workload"], record["context"])
        if task.key not in self.tasks:
            self.tasks[task.key] = task
            self._families.setdefault(task.family, []).append(task.key)
        kind = self._trials if record["kind"] == TRIAL else self._verdicts
        kind.setdefault(task.key, []).append(record)

    def trials(self, task: Task) -> list[Fields]:
        """All candidates that were tried."""
        return self._trials.get(task.key, [])

    def all_trials(self, kernel: str, context: Fields) -> list[Fields]:
        """Trials of a template on a kind of machine, whatever the workload."""
        return [
            record
            for records in self._trials.values()
            for record in records
            if record["workload"]["kernel"] == kernel and record["context"] == context
        ]

    def is_judged(self, task: Task) -> bool:
        """Whether the search has come to an end, for the time being."""
        return task.key in self._verdicts

    def verdict(self, task: Task) -> Fields | None:
        """The latest verdict."""
        return max(self._verdicts.get(task.key, []), key=lambda v: int(v["at"]), default=None)

    def decide(self, task: Task) -> Decision | None:
        """What to use; None if nothing is known of the task, nor of one with another epilogue."""
        decision = self._decide(task)
        if decision is not None:
            return decision
        relatives = sorted(key for key in self._families.get(task.family, []) if key != task.key)
        found = [d for key in relatives if (d := self._decide(self.tasks[key])) is not None]
        return min(found, key=lambda d: d.ratio, default=None)

    def _decide(self, task: Task) -> Decision | None:
        verdict = self.verdict(task)
        if verdict is not None:
            return Decision(verdict["choice"] or None, float(verdict["ratio"]), task)
        trials = self.trials(task)
        if not trials:
            return None
        best = min(trials, key=lambda r: r["ratio"] if wins(r) else 1.0)
        return Decision(best["choice"], best["ratio"], task) if wins(best) else None


def wins(record: Fields) -> bool:
    """Whether a trial was faster, beyond doubt."""
    if record["outcome"] != "ok":
        return False
    return bool(record["ratio"] < 1 - max(LEAST_GAIN, 2 * record["noise"]))


def is_record(record: Fields) -> bool:
    """Whether a record has the fields that are read here."""

    def has(name: str, kind: Any) -> bool:
        return isinstance(record.get(name), kind)

    if not (has("workload", dict) and has("context", dict) and has("choice", dict)):
        return False
    workload, kind = record["workload"], record.get("kind")
    if not isinstance(workload.get("kernel"), str) or not isinstance(workload.get(EPILOGUE), list):
        return False
    if kind == TRIAL and record.get("outcome") != "ok":
        return has("outcome", str)
    return (kind == TRIAL and has("ratio", float) and has("noise", float)) or (
        kind == VERDICT and has("ratio", float) and has("at", int)
    )


def same_choice(a: Choice, b: Choice) -> bool:
    """Whether two choices are equal, types included: True is not 1."""
    return canonical(a) == canonical(b)
