"""The kernels of one model that are to be tuned, and how far each has come."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from relaxc.errors import OptionError
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.tuning.history import History, wins
from relaxc.targets.tuning.records import canonical
from relaxc.targets.tuning.task import Choice, Task

# A task rests after so many trials that brought nothing.
PATIENCE = 48
# What counts as better.
_STEP = 0.01


@dataclass
class Entry:
    """A kernel to tune.

    Attributes:
        site: where it stands, or the first of several places, as its target has it.
        calls: places.
        space: its choices, the untuned one first.
        seconds: that the model spends in it, untuned; 0 until that is measured.
    """

    site: Any
    calls: int
    space: Sequence[Choice] = field(repr=False)
    seconds: float = 0.0

    @property
    def task(self) -> Task:
        """Which one."""
        task: Task = self.site.task
        return task

    def tried(self, history: History) -> int:
        """Choices of the space that have been measured."""
        return len({canonical(t["choice"]) for t in history.trials(self.task)})

    def idle(self, history: History) -> int:
        """Trials since the last improvement."""
        best, since = 1.0, 0
        for trial in history.trials(self.task):
            since += 1
            if wins(trial) and trial["ratio"] < best - _STEP:
                best, since = trial["ratio"], 0
        return since

    def is_open(self, history: History) -> bool:
        """Whether there is a choice left, and a hope."""
        return self.tried(history) < len(self.space) - 1 and self.idle(history) < PATIENCE


def entries_of(
    sites: Sequence[Any], machine: Machine | None, patterns: Sequence[str] = ()
) -> list[Entry]:
    """The different kernels among sites, those with a choice.

    Raises:
        OptionError: a pattern is no regular expression, or fits no kernel.
    """
    calls = Counter(site.task.key for site in sites)
    first = {site.task.key: site for site in reversed(sites)}
    found = []
    for key in dict.fromkeys(site.task.key for site in sites):
        space = first[key].space(machine)
        if len(space) > 1:
            found.append(Entry(first[key], calls[key], space))
    if not patterns:
        return found
    try:
        wanted = [re.compile(pattern) for pattern in patterns]
    except re.error as err:
        raise OptionError(f"`{err.pattern!r}` is no regular expression: {err}") from err
    chosen = [e for e in found if any(p.search(str(e.task)) for p in wanted)]
    if not chosen:
        listed = ", ".join(f"`{e.task}`" for e in found[:5])
        raise OptionError(f"no kernel of the model fits `--tasks`; there are {listed}")
    return chosen
