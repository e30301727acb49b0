"""A small model, tuned end to end: records are found, reused, and never make it slower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import onnx_model, relu_model

import relaxc
from relaxc.errors import OptionError
from relaxc.measure.reference import open_session
from relaxc.targets.tuning.history import VERDICT, History
from relaxc.targets.tuning.records import RecordStore
from relaxc.tuning import tune as tuner
from relaxc.tuning.subject import Subject
from relaxc.tuning.tune import dry_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    path = tmp_path_factory.mktemp("model") / "model.onnx"
    graph = """g (float[1,16,16,16] x) => (float[1,n] y) {
        a = Conv <kernel_shape=[1,1]> (x, v)
        b = Relu (a)
        c = Conv <kernel_shape=[1,1]> (b, w)
        s = Constant <value_ints=[1,-1]> ()
        f = Reshape (c, s)
        y = MatMul (f, k) }"""
    v, w, k = random(32, 16, 1, 1), random(16, 32, 1, 1), random(4096, 24)
    onnx.save(onnx_model(graph, v=v, w=w, k=k), path)
    return path


@pytest.fixture(scope="module")
def tuned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, relaxc.TuneResult]:
    records = tmp_path_factory.mktemp("records") / "r.jsonl"
    options = relaxc.TuneOptions(trials=3, records=records)
    return records, relaxc.tune(model, options)


def test_trials_are_counted_over_all_calls(
    model: Path, tuned: tuple[Path, relaxc.TuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    records, result = tuned
    assert (result.stopped, result.trials, result.known_trials) == ("trials", 3, 3)
    assert len(result.kernels) == 3 and sum(k.trials for k in result.kernels) == 3
    assert all(k.share is not None and k.of_peak is not None for k in result.kernels)
    assert result.before_s and result.after_s
    monkeypatch.setattr(tuner, "Measurer", None)  # nothing may be measured
    monkeypatch.setattr(Subject, "write", None)
    again = relaxc.tune(model, relaxc.TuneOptions(trials=3, records=records))
    assert (again.trials, again.known_trials) == (0, 3)
    assert again.kernels == result.kernels and again.ratio == result.ratio
    plan = dry_run(model, relaxc.TuneOptions(trials=9, records=records))
    assert plan.stopped == "dry run" and plan.known_trials == 3


def test_time_that_is_used_up_stays_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = relaxc.TuneOptions(time_budget_s=0.01, records=tmp_path / "r.jsonl")
    assert relaxc.tune(model, options).stopped == "time"
    monkeypatch.setattr(Subject, "write", None)
    again = relaxc.tune(model, options)
    assert (again.stopped, again.trials) == ("time", 0)


def _with_choices(records: Path, copy: Path, ratio: float, **more: Any) -> list[str]:
    """The same records, with a verdict for the last choice of each kernel's space."""
    history = History(RecordStore(records).read().records)
    store = RecordStore(copy)
    keys = []
    for key, task in history.tasks.items():
        trials = [t for t in history.trials(task) if t["outcome"] == "ok"]
        if not trials:
            continue
        record = {
            "kind": VERDICT,
            "workload": task.workload,
            "context": task.context,
            "choice": trials[-1]["choice"],
            "ratio": ratio,
            "at": 1,
            **more,
        }
        store.append([record])
        keys.append(key)
    return keys


def test_compiling_uses_records(
    model: Path, tuned: tuple[Path, relaxc.TuneResult], tmp_path: Path
) -> None:
    records, _ = tuned
    verdicts = tmp_path / "verdicts.jsonl"
    assert _with_choices(records, verdicts, 0.5)
    plain, chosen = tmp_path / "plain.rxc", tmp_path / "chosen.rxc"
    relaxc.compile(model, plain, relaxc.CompileOptions(tuning_records=None))
    relaxc.compile(model, chosen, relaxc.CompileOptions(tuning_records=verdicts))
    assert plain.read_bytes() != chosen.read_bytes()
    x = np.random.default_rng(1).standard_normal((1, 16, 16, 16)).astype(np.float32)
    (expected,) = open_session(model, 1).run(None, {"x": x})
    result = relaxc.load(chosen)(x)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)


def test_records_of_another_machine_or_version_are_not_used(
    model: Path, tuned: tuple[Path, relaxc.TuneResult], tmp_path: Path
) -> None:
    records, _ = tuned
    other = tmp_path / "other.jsonl"
    task = next(iter(History(RecordStore(records).read().records).tasks.values()))
    for field in task.context:
        _with_choices(records, other, 0.5, context={**task.context, field: "another"})
    plain, same = tmp_path / "plain.rxc", tmp_path / "same.rxc"
    relaxc.compile(model, plain, relaxc.CompileOptions(tuning_records=None))
    relaxc.compile(model, same, relaxc.CompileOptions(tuning_records=other))
    assert plain.read_bytes() == same.read_bytes()


def test_damaged_records_are_skipped_with_a_warning(
    model: Path, tuned: tuple[Path, relaxc.TuneResult], tmp_path: Path
) -> None:
    records, _ = tuned
    copy = tmp_path / "r.jsonl"
    copy.write_bytes(records.read_bytes() + b"torn")
    plan = dry_run(model, relaxc.TuneOptions(records=copy))
    (warning,) = plan.warnings
    assert warning.startswith("1 damaged or unknown lines of ")
    options = relaxc.CompileOptions(tuning_records=copy)
    assert relaxc.compile(model, tmp_path / "m.rxc", options).warnings == (warning,)


def test_a_model_without_kernels_to_tune(tmp_path: Path) -> None:
    result = relaxc.tune(relu_model(), relaxc.TuneOptions(records=tmp_path / "r.jsonl"))
    assert (result.stopped, result.kernels, result.trials) == ("done", (), 0)


def test_options_that_make_no_sense(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="trials must not be negative, not -1"):
        relaxc.TuneOptions(trials=-1)
    with pytest.raises(OptionError, match="time budget must not be negative"):
        relaxc.TuneOptions(time_budget_s=-1)
    with pytest.raises(OptionError, match="seed must not be negative, not -1"):
        relaxc.TuneOptions(seed=-1)
    with pytest.raises(OptionError, match="no kernel of the model fits `--tasks`; there are `conv"):
        dry_run(model, relaxc.TuneOptions(tasks=("lstm",), records=tmp_path / "r.jsonl"))
    with pytest.raises(OptionError, match="is no regular expression"):
        dry_run(model, relaxc.TuneOptions(tasks=("(",), records=tmp_path / "r.jsonl"))
    with pytest.raises(OptionError, match="do not exist; make them with `relaxc tune`"):
        absent = relaxc.CompileOptions(tuning_records=tmp_path / "absent.jsonl")
        relaxc.compile(model, tmp_path / "m.rxc", absent)
