"""What is tuned: one kernel for one workload on one kind of machine."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from relaxc.targets.tuning.records import Fields, canonical

# The parameters of a kernel's template: what a record holds and a kernel is written from.
Choice = Mapping[str, int | str | bool]

EPILOGUE = "epilogue"


@dataclass(frozen=True, eq=False)
class Task:
    """One kernel to tune.

    Attributes:
        workload: what is computed: the template's name, shapes, element types, the operators of
            the epilogue. JSON-able.
        context: for whom: the target, its features, threads, the version of the template's search
            space and TVM's. JSON-able.
    """

    workload: Fields
    context: Fields

    @functools.cached_property
    def key(self) -> str:
        """Equal for tasks that are the same, on any machine."""
        return _digest(self.workload, self.context)

    @functools.cached_property
    def family(self) -> str:
        """Equal for tasks that differ in the epilogue only, whose choices are alike."""
        bare = {name: value for name, value in self.workload.items() if name != EPILOGUE}
        return _digest(bare, self.context)

    @property
    def kernel(self) -> str:
        """The template's name."""
        return str(self.workload["kernel"])

    def __str__(self) -> str:
        shape = ", ".join(
            f"{name} {_spelled(value)}"
            for name, value in self.workload.items()
            if name not in ("kernel", EPILOGUE)
        )
        after = "+".join(self.workload[EPILOGUE])
        return f"{self.kernel}{'+' + after if after else ''} ({shape})"


def _digest(workload: Fields, context: Fields) -> str:
    return hashlib.sha256(canonical([workload, context]).encode()).hexdigest()[:32]


def _spelled(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
