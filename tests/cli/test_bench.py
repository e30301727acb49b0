"""relaxc bench."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import Run

from relaxc.measure.machine import Machine

QUICK = ("--warmup", 0, "--duration", 0, "--iterations", 5)


def test_the_summary_has_trtexecs_lines(relaxc: Run, relu_artifact: Path) -> None:
    done = relaxc("bench", relu_artifact, *QUICK)
    assert done.code == 0
    assert "=== Performance summary ===" in done.out
    number = r"[0-9.e+-]+"
    assert re.search(rf"^Throughput: {number} inf/s$", done.out, re.M)
    latency = (
        rf"^Latency: min = {number} ms, max = {number} ms, mean = {number} ms, "
        rf"median = {number} ms, percentile\(90%\) = {number} ms, "
        rf"percentile\(95%\) = {number} ms, percentile\(99%\) = {number} ms$"
    )
    assert re.search(latency, done.out, re.M)
    for line in ("Device:", "Threads:", "Target:", "Included:", "Load average:", "Load time:"):
        assert line in done.out
    assert "First inference:" in done.out
    assert "Peak memory:" in done.out


def test_json(relaxc: Run, relu_artifact: Path) -> None:
    args = ("--percentile", "50,99.9", "--streams", 2, "--threads", 1, "--shapes", "x:5x3")
    document = relaxc("bench", relu_artifact, *QUICK, *args, "--json").json
    assert document["samples"] == 10
    assert document["threads"] == 1
    assert document["input_shapes"] == {"x": [5, 3]}
    assert {"min", "median", "percentile(50%)", "percentile(99.9%)", "std"} <= set(
        document["latency_ms"]
    )
    assert len(document["artifact_sha256"]) == 64


def test_warnings_go_to_stderr(
    relaxc: Run, relu_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Machine("a CPU", 2, (7.5, 0, 0))
    monkeypatch.setattr("relaxc.measure.bench.this_machine", lambda: busy)
    done = relaxc("bench", relu_artifact, *QUICK, "--json")
    assert done.err.startswith("warning: other work keeps this machine busy; ")
    assert done.json["warnings"][0] in done.err
    assert done.json["is_noisy"]


def test_a_model_is_compiled_first(relaxc: Run, conv_onnx: Path) -> None:
    document = relaxc("bench", conv_onnx, *QUICK, "--json").json
    assert document["model"]["name"] == "conv"


def test_a_model_that_cannot_be_compiled(relaxc: Run, tmp_path: Path) -> None:
    done = relaxc("bench", tmp_path / "nosuch.onnx", *QUICK)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: model file `{tmp_path / 'nosuch.onnx'}` does not exist\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--percentile", "many"], "cannot read percentiles from `many`"),
        (["--percentile", "101"], "percentiles must lie between 0 and 100"),
        (["--iterations", "0"], "must be at least 1"),
        (["--duration", "-1"], "must not be negative"),
        (["--duration", "inf"], "must not be negative or infinite"),
        (["--warmup", "nan"], "must not be negative or infinite"),
        (["--seed", "-1"], "the seed must not be negative, not -1"),
        (["--precision", "bf16"], "`--precision` is for models that are compiled first; `"),
        (["-O", "1"], "`--opt-level` is for models that are compiled first; `"),
        (["other.rxc", "--target", "cuda"], "several files are measured as they are"),
    ],
)
def test_bad_options(relaxc: Run, relu_artifact: Path, args: list[str], message: str) -> None:
    done = relaxc("bench", relu_artifact, *args)
    assert done.code == 2
    assert message in done.err


def test_the_profile(relaxc: Run, conv_artifact: Path) -> None:
    done = relaxc("bench", conv_artifact, *QUICK, "--profile")
    assert done.code == 0
    assert "=== Profile" in done.out
    assert "conv2d" in done.out
    assert "Of peak" in done.out
    plain = relaxc("bench", conv_artifact, *QUICK, "--json").json
    assert plain["profile"] is None
    found = relaxc("bench", conv_artifact, *QUICK, "--profile", "--json").json["profile"]
    assert found["runs"] >= 10
    assert {"name", "nodes", "calls", "min_us", "share", "flops", "bytes", "of_peak"} <= set(
        found["kernels"][0]
    )
    assert found["roofline"]["operations_per_s"]["float32"] > 0


def test_several_files_take_turns(relaxc: Run, conv_artifact: Path, conv_onnx: Path) -> None:
    files = (conv_artifact, conv_artifact, conv_onnx)
    done = relaxc("bench", *files, *QUICK, "--percentile", "99")
    assert done.code == 0
    assert "Compared with: ONNX Runtime, conv.onnx" in done.out
    assert re.search(r"^ ?relaxc +conv\.rxc ", done.out, re.M)
    document = relaxc("bench", *files, *QUICK, "--json").json
    contenders = document["contenders"]
    assert document["reference"] == 2
    assert contenders[2]["min_ratio"] == contenders[2]["median_ratio"] == 1
    assert {"min", "median", "percentile(99%)"} <= set(contenders[0]["latency_ms"])
    assert contenders[0]["cosine"] > 0.9999


def test_files_of_which_none_is_an_artifact(relaxc: Run, conv_onnx: Path) -> None:
    done = relaxc("bench", conv_onnx, conv_onnx, *QUICK)
    assert done.code == 2
    assert done.err == "error: none of the files is an artifact; compile one of them first\n"
