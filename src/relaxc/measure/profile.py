"""Where the time of an inference goes, kernel by kernel."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from relaxc.measure.expressions import evaluate
from relaxc.runtime.model import Model
from relaxc.runtime.profiler import NAME_LENGTH, TimedCall, TimedRun

_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True)
class KernelTime:
    """One kernel of the model, or several together.

    Attributes:
        name: of the code; layers of equal shape share it.
        nodes: ONNX nodes that it computes; empty for copies between layouts.
        calls: per inference.
        min_s, median_s: over all inferences.
        flops: arithmetic of products and convolutions as if computed directly; None if unknown.
        bytes: arguments and results, each once; None if unknown.
        dtype: of the arithmetic.
        task: key of the tuning task that it is; None if it is none, or several.
    """

    name: str
    nodes: tuple[str, ...]
    calls: int
    min_s: float
    median_s: float
    flops: int | None
    bytes: int | None
    dtype: str
    task: str | None = None


@dataclass(frozen=True)
class Profile:
    """An inference in parts.

    Attributes:
        runs: how many inferences were timed.
        kernels: in the order of execution, parts of a batch together; those that never ran are
            left out.
        runtime: functions of TVM's runtime: allocation, checks of shapes.
        min_s, median_s: of a whole inference.
    """

    runs: int
    kernels: tuple[KernelTime, ...]
    runtime: KernelTime
    min_s: float
    median_s: float

    @property
    def sum_s(self) -> float:
        """All parts at their fastest."""
        return sum(kernel.min_s for kernel in (*self.kernels, self.runtime))

    def by_algorithm(self) -> list[KernelTime]:
        """Kernels of one kind together, the costliest first."""
        groups: dict[str, list[KernelTime]] = {}
        for kernel in self.kernels:
            groups.setdefault(_NUMBER.sub("", kernel.name), []).append(kernel)
        merged = [_merged(name, members) for name, members in groups.items()]
        return sorted(merged, key=lambda kernel: -kernel.min_s)


def profile(model: Model, feed: Mapping[str, np.ndarray], runs: int) -> Profile:
    """Time a model's kernels.

    Raises:
        InputError: the inputs do not fit the model.
        ArtifactError: the artifact holds no profiler.
    """
    timed = model.profile(feed, runs)
    entries = model.manifest["kernels"]
    seconds, calls = _by_place(entries, timed)
    symbols = {
        dim: size
        for info in model.inputs
        for dim, size in zip(info.shape, feed[info.name].shape)
        if isinstance(dim, str)
    }
    kernels = [
        _kernel(entry, int(count), times, runs, symbols)
        for entry, count, times in zip(entries, calls, seconds.T)
        if count
    ]
    runtime = {"name": "(TVM's runtime)", "nodes": [], "flops": 0, "bytes": 0, "dtype": "float32"}
    return Profile(
        runs=runs,
        kernels=tuple(_parts_together(kernels)),
        runtime=_kernel(runtime, int(calls[-1]), seconds[:, -1], runs, symbols),
        min_s=min(run.seconds for run in timed),
        median_s=statistics.median(run.seconds for run in timed),
    )


def fastest_calls(model: Model, feed: Mapping[str, np.ndarray], runs: int) -> dict[int, float]:
    """Seconds of the manifest's kernels at their fastest, by place; those that never ran have none.

    Raises:
        InputError: the inputs do not fit the model.
    """
    seconds, calls = _by_place(model.manifest["kernels"], model.profile(feed, runs))
    least = seconds[:, :-1].min(axis=0)
    return {int(place): float(least[place]) for place in np.flatnonzero(calls[:-1])}


def _by_place(
    entries: Sequence[Mapping[str, Any]], timed: Sequence[TimedRun]
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds by run and kernel, the runtime's last, and numbers of calls in all runs."""
    places = _Places([entry["name"] for entry in entries])
    seconds = np.zeros((len(timed), len(entries) + 1))
    calls = np.zeros(len(entries) + 1, np.int64)
    for row, run in zip(seconds, timed):
        for place, call in places.of(run.calls):
            row[place] += call.seconds
            calls[place] += 1
    return seconds, calls


class _Places:
    """Finds which of the manifest's kernels each call is: they run in its order.

    Branches that are not taken leave gaps; so the next entry of the same name is meant.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.other = len(names)
        self.indices: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            self.indices.setdefault(name[:NAME_LENGTH], []).append(index)

    def of(self, calls: Sequence[TimedCall]) -> list[tuple[int, TimedCall]]:
        found = []
        at = 0
        for call in calls:
            known = self.indices.get(call.name, ())
            place = next((index for index in known if index >= at), self.other)
            if place != self.other:
                at = place + 1
            found.append((place, call))
        return found


def _kernel(
    entry: Mapping[str, Any], count: int, times: np.ndarray, runs: int, symbols: Mapping[str, int]
) -> KernelTime:
    return KernelTime(
        name=entry["name"],
        nodes=tuple(entry["nodes"]),
        calls=-(-count // runs),
        min_s=float(times.min()),
        median_s=float(np.median(times)),
        flops=evaluate(entry["flops"], symbols),
        bytes=evaluate(entry["bytes"], symbols),
        dtype=entry["dtype"],
        task=entry.get("task"),
    )


def _parts_together(kernels: Sequence[KernelTime]) -> list[KernelTime]:
    """Kernels that compute the same nodes, each for a part of the batch, as one."""
    members: dict[tuple[object, ...], list[KernelTime]] = {}
    for number, kernel in enumerate(kernels):
        key = (kernel.name, kernel.nodes) if kernel.nodes else (number,)
        members.setdefault(key, []).append(kernel)
    return [
        same[0] if len(same) == 1 else replace(_merged(same[0].name, same), nodes=same[0].nodes)
        for same in members.values()
    ]


def _merged(name: str, members: Sequence[KernelTime]) -> KernelTime:
    return KernelTime(
        name=name,
        nodes=tuple(node for member in members for node in member.nodes),
        calls=sum(member.calls for member in members),
        min_s=sum(member.min_s for member in members),
        median_s=sum(member.median_s for member in members),
        flops=_total([member.flops for member in members]),
        bytes=_total([member.bytes for member in members]),
        dtype=members[0].dtype,
        task=members[0].task if len({member.task for member in members}) == 1 else None,
    )


def _total(values: Sequence[int | None]) -> int | None:
    return None if None in values else sum(value or 0 for value in values)
