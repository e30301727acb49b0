"""What is tuned: one kernel for one workload on one kind of machine."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        told = {n: v for n, v in self.workload.items() if n not in ("kernel", EPILOGUE)}
        for name in ("result", "precision"):  # stored and multiplied as the data are
            if name in told and told[name] == told.get("element"):
                del told[name]
        words = [f"{self.kernel} {_shape(told)}".rstrip()]
        words += [f"{n}={_spelled(v)}" for n, v in told.items() if v != _USUAL.get(n)]
        after = [word for word in self.workload[EPILOGUE] if not word.startswith("[")]
        return " ".join([*words, *(f"+{word.removeprefix('nn.')}" for word in after)])


# What goes without saying.
_USUAL = {
    "batch": 1,
    "groups": 1,
    "stride": [1, 1],
    "dilation": [1, 1],
    "padding": [0, 0, 0, 0],
    "element": "float32",
    "order": "last",
    "packed": True,
    "is_fetched": True,
    "is_paired": False,
    "norm": "",
}


def _shape(told: dict[str, Any]) -> str:
    """Takes out of a workload what people know where to look for, and spells it."""
    if "taps" in told:
        maps = f"{told.pop('in_channels')}x{told.pop('in_height')}x{told.pop('in_width')}"
        to = f"{told.pop('out_channels')}x{told.pop('out_height')}x{told.pop('out_width')}"
        told.pop("padding")
        return f"{_spelled(told.pop('taps'))} {maps} to {to}"
    if "rows" in told:
        return f"{told.pop('rows')}x{told.pop('depth')}x{told.pop('columns')}"
    return ""


def _digest(workload: Fields, context: Fields) -> str:
    return hashlib.sha256(canonical([workload, context]).encode()).hexdigest()[:32]


def _spelled(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
