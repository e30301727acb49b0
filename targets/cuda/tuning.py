"""Between the kernels and what was measured on GPUs: which task a kernel is, what to write it with.

A kernel asks, as it is written, and says what it computes and what there is to choose from. Who
answers: the records (`Tuning`), one who only notes the question (`Noting`), or one who tries a
choice (`Fixed`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from relaxc.targets.tuning.history import Decider, Decision, same_choice
from relaxc.targets.tuning.records import Fields
from relaxc.targets.tuning.task import Choice, Task

# What records say of kernels that were written in another way is no longer true.
SPACE_VERSION = 1
# Kernels that ask, as records name them.
CONV2D, MATMUL, MATVEC = "cuda.conv2d", "cuda.matmul", "cuda.matvec"
ATTENTION = "cuda.attention"

Space = Callable[[], list[Choice]]


def space_versions() -> dict[str, int]:
    """Name of a kernel -> version of its parameters."""
    return dict.fromkeys((CONV2D, MATMUL, MATVEC, ATTENTION), SPACE_VERSION)


class Chooser(Protocol):
    """Who is asked."""

    def choose(self, workload: Fields, space: Space) -> Choice | None:
        """What to write a kernel with; None leaves that to the kernel."""


class Tuning:
    """Answers as the records do.

    Args:
        decider: what was measured.
        arch: the GPU's architecture.

    Attributes:
        refused: keys of tasks whose record names a choice that the kernel does not offer, and why.
    """

    def __init__(self, decider: Decider, arch: str) -> None:
        self._decider = decider
        self._context = {
            "kind": "cuda",
            "arch": arch,
            "tvm": importlib.metadata.version("apache-tvm"),
            "space": SPACE_VERSION,
        }
        self._decisions: dict[str, Decision | None] = {}
        self.refused: dict[str, str] = {}

    def task(self, workload: Fields) -> Task:
        """What is looked for in the records."""
        return Task(workload, self._context)

    def choose(self, workload: Fields, space: Space) -> Choice | None:
        """What was measured to be fastest, if the kernel still offers it."""
        task = self.task(workload)
        if task.key not in self._decisions:
            self._decisions[task.key] = self._allowed(task, space)
        decision = self._decisions[task.key]
        return None if decision is None else decision.choice

    def _allowed(self, task: Task, space: Space) -> Decision | None:
        decision = self._decider.decide(task)
        if decision is None or decision.choice is None:
            return decision
        for choice in space():
            if same_choice(choice, decision.choice):
                return replace(decision, choice=choice)
        self.refused[task.key] = f"the record for {task} names a choice that is no longer offered"
        return None


class Noting:
    """Notes what is asked, and leaves the choice to the kernel."""

    def __init__(self) -> None:
        self.asked: list[tuple[Fields, list[Choice]]] = []

    def choose(self, workload: Fields, space: Space) -> Choice | None:
        """Note it."""
        self.asked.append((workload, space()))
        return None


@dataclass(frozen=True)
class Fixed:
    """Answers the same to everything.

    Attributes:
        choice: the answer.
    """

    choice: Choice

    def choose(self, workload: Fields, space: Space) -> Choice:
        """Answer."""
        return self.choice
