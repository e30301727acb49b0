"""Runs candidates in a child process, and outlives whatever they do to it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from relaxc.errors import TargetError
from relaxc.tuning.conversation import Conversation
from relaxc.tuning.job import Job

_START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How candidates are measured.

    Attributes:
        threads: that share a kernel's loops.
        timeout_s: for one candidate, building included; none that takes longer pays.
        memory_bytes: that candidates may use, all in all.
        sweep_bytes: memory to touch before each run, as the other layers of a model do.
        pairs: measurements beside the untuned kernel, at least.
        least_s: time to measure, at least.
    """

    threads: int
    timeout_s: float = 20.0
    memory_bytes: int = 4 << 30
    sweep_bytes: int = 8 << 20
    pairs: int = 5
    least_s: float = 0.03


class Measurer:
    """The child process; started again after a candidate took it down.

    Args:
        target: what to build for, as TVM spells it.
        options: how to measure.
    """

    def __init__(self, target: str, options: MeasureOptions) -> None:
        self._target = target
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="relaxc-")
        self._jobs = 0
        self._child: Conversation | None = None
        self._task: Path | None = None

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stop()
        self._folder.cleanup()

    def begin(self, untuned: Job) -> dict[str, Any]:
        """Begin a task; the untuned kernel is what candidates are compared with.

        Returns:
            `outcome`, and `seconds` if that is `ok`.
        """
        self._task = None
        path = self._written(untuned)
        answer = self._ask({"kind": "task", "folder": str(path)})
        self._task = path if answer["outcome"] == "ok" else None
        return answer

    def trial(self, candidate: Job) -> dict[str, Any]:
        """Build, check and time a candidate.

        Args:
            candidate: of the task that was begun.

        Returns:
            `outcome`: `ok`, `wrong`, `failed`, `crashed`, `timeout` or `memory`; for `ok` also
            `ratio`, `noise`, `seconds` and `untuned_seconds`.
        """
        if self._child is None and self._task is not None:
            # A candidate took the child down, and with it what it knew.
            self._ask({"kind": "task", "folder": str(self._task)})
        path = self._written(candidate)
        return self._ask(
            {
                "kind": "trial",
                "folder": str(path),
                "pairs": self._options.pairs,
                "least_s": self._options.least_s,
            }
        )

    def trials(self, candidates: Iterable[Job]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Answers to candidates of the task that was begun, with their places, as they come."""
        for place, candidate in enumerate(candidates):
            yield place, self.trial(candidate)

    def _written(self, job: Job) -> Path:
        self._jobs += 1
        path = Path(self._folder.name, str(self._jobs))
        job.write(path)
        return path

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        child = self._child or self._start()
        answer = child.ask(request, self._options.timeout_s)
        if answer["outcome"] in ("crashed", "timeout", "memory"):
            self._stop()
        return answer

    def _start(self) -> Conversation:
        options = self._options
        child = subprocess.Popen(
            [sys.executable, "-m", "relaxc.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for us: the record of the trial at hand is still to be written.
            start_new_session=True,
        )
        self._child = Conversation(child)
        setup = {
            "target": self._target,
            "threads": options.threads,
            "sweep_bytes": options.sweep_bytes,
            "memory_bytes": options.memory_bytes,
        }
        answer = self._child.ask(setup, _START_S)
        if answer["outcome"] != "ready":
            self._stop()
            raise TargetError(
                f"the process that runs candidates does not start ({answer['outcome']}); "
                "try `python -m relaxc.tuning.worker` for its message"
            )
        return self._child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
