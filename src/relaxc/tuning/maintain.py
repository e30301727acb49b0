"""Looking after tuning records: what there is, what a model can use of it, and order."""

from __future__ import annotations

import importlib.metadata
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from relaxc.errors import InputError, RecordsError
from relaxc.options import CompileOptions
from relaxc.targets.cuda import tuning as gpu_tuning
from relaxc.targets.cuda.backend import CudaBackend
from relaxc.targets.llvm import nests
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.llvm.library import space_versions
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import TRIAL, VERDICT, History, is_record, wins
from relaxc.targets.tuning.records import (
    Contents,
    Fields,
    RecordStore,
    damaged_lines,
    records_path,
)
from relaxc.targets.tuning.search import nearest
from relaxc.targets.tuning.task import Task
from relaxc.tuning.subject import Subject

# Descriptions of models, which are tasks only in name.
_MODEL = "model"


@dataclass(frozen=True)
class Known:
    """What the records say about one kernel on one kind of machine.

    Attributes:
        task: its description.
        key: of its records.
        context: for whom.
        trials: that were measured.
        failed: of them, that were wrong, crashed, hung and the like.
        ratio: of its time to that without tuning, as far as is known; 1 where nothing beats that.
        choice: what it will be written with; None: what it is without tuning.
        is_judged: whether the choice was measured once more after the search.
    """

    task: str
    key: str
    context: Fields
    trials: int
    failed: int
    ratio: float
    choice: Mapping[str, Any] | None
    is_judged: bool


def known(contents: Contents) -> list[Known]:
    """Everything, kernel by kernel."""
    history = History(contents.records)
    found = []
    for key, task in history.tasks.items():
        if task.kernel == _MODEL:
            continue
        trials = history.trials(task)
        decision = history.decide(task)
        choice = None if decision is None else decision.choice
        found.append(
            Known(
                task=str(task),
                key=key,
                context=task.context,
                trials=len(trials),
                failed=sum(t["outcome"] != "ok" for t in trials),
                ratio=decision.ratio if decision is not None and choice is not None else 1.0,
                choice=choice,
                is_judged=history.is_judged(task),
            )
        )
    return found


def stats(store: RecordStore) -> dict[str, Any]:
    """Numbers about a file."""
    contents = store.read()
    records = [r for r in contents.records if is_record(r)]
    tasks = known(contents)
    return {
        "file": str(store.path),
        "bytes": store.path.stat().st_size if store.path.exists() else 0,
        "records": len(records),
        "damaged": contents.damaged,
        "unknown": len(contents.records) - len(records),
        "kernels": len(tasks),
        "faster": sum(task.choice is not None for task in tasks),
        "outcomes": dict(Counter(r["outcome"] for r in records if r["kind"] == TRIAL)),
        "machines": dict(Counter(_machine(task.context) for task in tasks)),
        "measured_s": sum(float(r.get("spent", 0.0)) for r in records),
    }


def _machine(context: Fields) -> str:
    return str(context.get("mcpu") or context.get("arch"))


@dataclass(frozen=True)
class Reason:
    """Whether a model's kernel finds a record, and why not.

    Attributes:
        task: the kernel.
        calls: places in the model.
        is_hit: whether there is one.
        text: what was found, or why nothing was.
    """

    task: str
    calls: int
    is_hit: bool
    text: str


def why(
    model: str | os.PathLike[str] | onnx.ModelProto,
    options: CompileOptions,
    place: Path | None = None,
) -> list[Reason]:
    """What `compile` finds for each kernel of a model that tuning has a say in.

    Raises:
        ModelError, OptionError: as `compile` does.
        RecordsError: the records cannot be read.
    """
    backend = backend_for(options.target).with_precision(options.precision)
    assert isinstance(backend, LlvmBackend | CudaBackend)
    history = History(RecordStore(records_path(place)).read().records)
    bound = backend.with_records(history)
    sites = Subject.of(bound, model, options).sites(bound)
    refused = {} if bound.tuning is None else bound.tuning.refused
    calls = Counter(site.task.key for site in sites)
    unique = {site.task.key: site.task for site in sites}
    return [_reason(task, calls[key], history, refused) for key, task in unique.items()]


def _reason(task: Task, calls: int, history: History, refused: Mapping[str, str]) -> Reason:
    decision = history.decide(task)
    if task.key in refused:
        return Reason(str(task), calls, False, refused[task.key])
    if decision is None:
        return Reason(str(task), calls, False, _missing(task, history))
    verdict = f"{1 / decision.ratio:.2f}x with {_spelled(decision.choice)}"
    if decision.choice is None:
        verdict = "nothing beats the untuned kernel"
    if decision.task.key != task.key:
        verdict += f"; from {decision.task}, which differs in the epilogue"
    elif not history.is_judged(task):
        verdict += "; the search was cut short"
    return Reason(str(task), calls, True, verdict)


def _missing(task: Task, history: History) -> str:
    """Why there is nothing: the closest that there is, and in what it differs."""
    if history.trials(task):
        return "tuned, but no candidate has won so far; tune longer"
    others = [o for o in history.tasks.values() if o.workload == task.workload]
    if others:
        apart = [_differences(task.context, other.context) for other in others]
        return "tuned for another machine or version: " + min(apart, key=len)
    near = nearest(task, history)
    if near is not None:
        return f"never tuned; most similar is {near}"
    return "never tuned; run `relaxc tune`"


def _differences(ours: Fields, theirs: Fields) -> str:
    return ", ".join(
        f"{name} {theirs.get(name)}, not {ours.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    )


def _spelled(choice: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name}={value}" for name, value in (choice or {}).items())


def read_for_import(path: Path) -> Contents:
    """Records of a file that somebody gave us.

    Raises:
        InputError: there is none, or it holds no record.
        RecordsError: it cannot be read.
    """
    if not path.exists():
        raise InputError(f"`{path}` does not exist")
    contents = RecordStore(path).read()
    if not any(is_record(record) for record in contents.records):
        raise InputError(f"`{path}` holds no tuning records")
    return contents


def add_records(store: RecordStore, sources: Iterable[Path]) -> tuple[int, int]:
    """Add what other files hold; what is there already is not repeated.

    Returns:
        How many records were new, and how many lines were skipped.
    """
    given = [read_for_import(path) for path in sources]
    skipped = sum(c.damaged + sum(not is_record(r) for r in c.records) for c in given)
    before = {str(r) for r in store.read().records}
    fresh: dict[str, Fields] = {}
    for contents in given:
        for record in contents.records:
            if is_record(record) and str(record) not in before:
                fresh.setdefault(str(record), record)
    store.append(fresh.values())
    return len(fresh), skipped


def essential(records: Iterable[Fields]) -> list[Fields]:
    """The verdicts, and of each kernel's trials the best: enough to compile with."""
    records = [record for record in records if is_record(record)]
    history = History(records)
    best = {
        id(min(won, key=lambda t: float(t["ratio"])))
        for task in history.tasks.values()
        if (won := [t for t in history.trials(task) if wins(t)])
    }
    return [r for r in records if r["kind"] == VERDICT or id(r) in best]


def prune(store: RecordStore, drop_trials: bool) -> tuple[int, int]:
    """Drop what cannot be used any more.

    That is: damaged lines, records of other versions of TVM or of a kernel's parameters, and if
    asked for, trials that nothing depends on.

    Returns:
        Records before and after.
    """
    tvm = importlib.metadata.version("apache-tvm")
    versions = {**space_versions(), nests.NAME: nests.VERSION, **gpu_tuning.space_versions()}
    counts = [0, 0]

    def is_current(record: Fields) -> bool:
        context, kernel = record["context"], record["workload"]["kernel"]
        is_space = kernel == _MODEL or context.get("space") == versions.get(kernel)
        return bool(context.get("tvm") == tvm and is_space)

    def change(contents: Contents) -> list[Fields]:
        kept = [r for r in contents.records if is_record(r) and is_current(r)]
        kept = essential(kept) if drop_trials else kept
        counts[:] = [len(contents.records), len(kept)]
        return kept

    if store.path.exists():
        store.replace(change)
    return counts[0], counts[1]


def verify(store: RecordStore) -> list[tuple[int, str]]:
    """Lines that hold no record: their numbers, and what is wrong.

    Raises:
        RecordsError: there is no file, or it cannot be read.
    """
    if not store.path.exists():
        raise RecordsError(f"there are no tuning records at `{store.path}`")
    return damaged_lines(store.path.read_bytes(), is_record)
