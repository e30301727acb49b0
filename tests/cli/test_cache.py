"""relaxc cache."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import onnx
import pytest
from builders import conv_model
from commands import Run

from relaxc.options import CompileOptions
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import History
from relaxc.targets.tuning.records import Fields, RecordStore
from relaxc.targets.tuning.task import EPILOGUE, Task
from relaxc.tuning.subject import Subject


@pytest.fixture(scope="module")
def task() -> Task:
    backend = backend_for("llvm")
    assert isinstance(backend, LlvmBackend)
    bound = backend.with_records(History([]))
    sites = Subject.of(bound, conv_model(), CompileOptions()).sites(bound)
    found: Task = sites[0].task
    return found


def trial(task: Task, ratio: float, **more: object) -> Fields:
    return {
        "kind": "trial",
        "workload": task.workload,
        "context": task.context,
        "choice": {"algorithm": "direct", "blocks": 1, "columns": 2, "rows_outer": True}
        | {"prefetch": 0, "unroll": 1},
        "outcome": "ok",
        "ratio": ratio,
        "noise": 0.001,
        "at": 1,
        "spent": 0.5,
        **more,
    }


@pytest.fixture
def records(task: Task, tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    failed = {"outcome": "crashed", "choice": {"algorithm": "direct"}}
    RecordStore(path).append([trial(task, 0.9), trial(task, 0.5), trial(task, 1.0, **failed)])
    return path


def test_listing_and_counting(relaxc: Run, records: Path) -> None:
    done = relaxc("cache", "ls", "--tuning-records", records)
    assert "conv2d 3x3 3x8x8 to 4x8x8 +add +relu" in done.out and "unfinished" in done.out
    (kernel,) = relaxc("cache", "ls", "--tuning-records", records, "--json").json["kernels"]
    assert (kernel["ratio"], kernel["trials"], kernel["failed"]) == (0.5, 3, 1)
    assert "1 faster than untuned" in relaxc("cache", "stats", "--tuning-records", records).out
    numbers = relaxc("cache", "stats", "--tuning-records", records, "--json").json
    assert numbers["outcomes"] == {"ok": 2, "crashed": 1} and numbers["measured_s"] == 1.5
    empty = relaxc("cache", "ls", "--tuning-records", records.parent / "none")
    assert empty.out.strip() == "No kernel has been tuned."


def test_why_a_kernel_is_found_or_not(
    relaxc: Run, conv_onnx: Path, task: Task, tmp_path: Path
) -> None:
    def reason(*found: Fields) -> str:
        path = tmp_path / "why.jsonl"
        path.unlink(missing_ok=True)
        RecordStore(path).append(found)
        document = relaxc("cache", "why", conv_onnx, "--tuning-records", path, "--json").json
        (kernel,) = document["kernels"]
        return f"{kernel['is_hit']}: {kernel['text']}"

    good = trial(task, 0.5)
    assert reason() == "False: never tuned; run `relaxc tune`"
    assert reason(trial(task, 1.5)) == (
        "False: tuned, but no candidate has won so far; tune longer"
    )
    assert "names a choice that is no longer offered" in reason({**good, "choice": {"a": 1}})
    other = {**good, "context": {**task.context, "tvm": "0.1"}}
    assert "another machine or version: tvm 0.1, not " in reason(other)
    wider = {**good, "workload": {**task.workload, "out_channels": 8}}
    assert reason(wider).startswith("False: never tuned; most similar is conv2d 3x3 3x8x8 to 8x8x8")
    space = [choice for choice in _space() if choice["algorithm"] == "direct"]
    fits = {**good, "choice": space[-1]}
    assert reason(fits).startswith("True: 2.00x with algorithm=direct")
    relative = {**fits, "workload": {**task.workload, EPILOGUE: []}}
    assert "which differs in the epilogue" in reason(relative)
    verdict = {"kind": "verdict", "choice": {}, "at": 2, "ratio": 1.0}
    assert reason({**good, **verdict}) == "True: nothing beats the untuned kernel"
    assert (
        "1 of 1 kernels are known."
        in relaxc("cache", "why", conv_onnx, "--tuning-records", tmp_path / "why.jsonl").out
    )


def _space() -> list[dict[str, object]]:
    from relaxc.targets.llvm.machine import machine_of

    backend = backend_for("llvm")
    assert isinstance(backend, LlvmBackend)
    bound = backend.with_records(History([]))
    sites = Subject.of(bound, conv_model(), CompileOptions()).sites(bound)
    return [dict(choice) for choice in sites[0].space(machine_of(backend.target))]


def test_sharing(relaxc: Run, records: Path, tmp_path: Path) -> None:
    shared, everything, own = (tmp_path / n for n in ("s.jsonl", "all.jsonl", "own.jsonl"))
    assert relaxc("cache", "export", shared, "--tuning-records", records).code == 0
    (best,) = RecordStore(shared).read().records
    assert best["ratio"] == 0.5
    relaxc("cache", "export", everything, "--all", "--tuning-records", records)
    assert len(RecordStore(everything).read().records) == 3
    done = relaxc("cache", "import", shared, "--tuning-records", own, "--json")
    assert done.json["added"] == 1 and done.json["skipped"] == 0
    with everything.open("ab") as file:
        file.write(b"torn")
    done = relaxc("cache", "merge", shared, everything, "-o", own)
    assert "2 new records" in done.out and "1 damaged or unknown lines are skipped" in done.err
    assert relaxc("cache", "merge", shared, "-o", own).out.startswith("0 new records")


def test_files_that_hold_no_records_are_refused(relaxc: Run, tmp_path: Path) -> None:
    done = relaxc("cache", "import", tmp_path / "absent")
    assert (done.code, "does not exist" in done.err) == (2, True)
    (tmp_path / "empty").write_text("{}")
    done = relaxc("cache", "import", tmp_path / "empty")
    assert (done.code, "holds no tuning records" in done.err) == (2, True)
    done = relaxc("cache", "verify", "--tuning-records", tmp_path / "absent.jsonl")
    assert (done.code, "there are no tuning records at" in done.err) == (65, True)


def test_pruning_and_verifying(relaxc: Run, task: Task, records: Path) -> None:
    old = {**task.context, "tvm": "0.1"}
    assert importlib.metadata.version("apache-tvm") != "0.1"
    RecordStore(records).append(
        [trial(task, 0.3, context=old), trial(task, 0.3, context={**task.context, "space": -1})]
    )
    assert relaxc("cache", "verify", "--tuning-records", records).code == 0
    with records.open("ab") as file:
        file.write(b"torn\n")
    RecordStore(records).append([{"kind": "of a later version"}])
    done = relaxc("cache", "verify", "--tuning-records", records)
    assert done.code == 1
    assert "line 6: torn or changed" in done.out and "line 7: no tuning record" in done.out
    done = relaxc("cache", "prune", "--tuning-records", records)
    assert done.out.startswith("6 records before, 3 after")
    done = relaxc("cache", "prune", "--drop-trials", "--tuning-records", records)
    assert done.out.startswith("3 records before, 1 after")
    assert relaxc("cache", "verify", "--tuning-records", records).code == 0


def test_a_model_without_such_kernels(relaxc: Run, tmp_path: Path) -> None:
    from builders import relu_model

    onnx.save(relu_model(), tmp_path / "relu.onnx")
    done = relaxc("cache", "why", tmp_path / "relu.onnx", "--tuning-records", tmp_path)
    assert done.out.strip() == "Tuning has no say in any kernel of this model."
