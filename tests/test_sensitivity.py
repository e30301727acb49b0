"""Sensitivity: measured, written down, resumed, and used for a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import onnx_model
from commands import Outcome

import relaxc
from relaxc.cli import main
from relaxc.errors import OptionError
from relaxc.options import CompileOptions, PruneOptions
from relaxc.passes.prune.dependency import Group
from relaxc.passes.prune.sensitivity import scores_by_curves
from relaxc.sensitivity import SensitivityOptions, analyze, read_curves


def model(folder: Path) -> Path:
    """Two branches of equal weights, one of which hardly counts."""
    rng = np.random.default_rng(0)
    w, u = (rng.standard_normal((16, 3, 1, 1)).astype(np.float32) for _ in range(2))
    v, t = (rng.standard_normal((6, 16, 1, 1)).astype(np.float32) for _ in range(2))
    graph = """g (float[n,3,8,8] x) => (float[n,6,8,8] y) {
        strong = Conv(x, w)  weak = Conv(x, u)  a = Conv(strong, v)  b = Conv(weak, t)
        c = Mul(b, s)  y = Add(a, c)
    }"""
    path = folder / "model.onnx"
    onnx.save(onnx_model(graph, 18, w=w, u=u, v=v, t=t, s=np.float32(0.01).reshape(1)), path)
    return path


def feeds(count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def test_the_branch_that_counts_is_the_sensitive_one(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    found = analyze(model(tmp_path), feeds(), path)
    values = {(p.group, p.ratio): p.value for p in found.points}
    for ratio in (0.125, 0.25, 0.5, 0.75):
        assert values["strong", ratio] > 100 * values["weak", ratio] > 0
    assert values["strong", 0.75] > values["strong", 0.25]
    # Half of all channels are to go: those that nobody misses.
    prune = PruneOptions(
        saving="channels", share=0.4, scope="sensitivity", round_to=1, curves=read_curves(path)
    )
    options = CompileOptions(prune=prune)
    done = relaxc.compile(tmp_path / "model.onnx", tmp_path / "a.rxc", options)
    assert done.pruned is not None
    left = {g.name: g.after for g in done.pruned.groups}
    assert left["weak"] < 5
    assert left["strong"] > 13


def test_a_divergence_is_that_of_the_pruned_model(tmp_path: Path) -> None:
    found = analyze(model(tmp_path), feeds(), tmp_path / "s.json")
    point = next(p for p in found.points if (p.group, p.ratio) == ("strong", 0.5))
    keep = PruneOptions(saving="channels", share=0.5, round_to=1, exclude=("weak",))
    relaxc.compile(tmp_path / "model.onnx", tmp_path / "a.rxc", CompileOptions(prune=keep))
    relaxc.compile(tmp_path / "model.onnx", tmp_path / "b.rxc")
    small, dense = (
        np.stack([relaxc.load(tmp_path / f"{name}.rxc")(**feed) for feed in feeds()])
        for name in "ab"
    )
    expected = np.square(small - dense).sum() / np.square(dense).sum()
    assert point.value == pytest.approx(expected, rel=1e-3)


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    path, output = model(tmp_path), tmp_path / "s.json"
    whole = analyze(path, feeds(), output).points
    held = json.loads(output.read_text())
    held["points"] = held["points"][:3]
    held["points"][0]["value"] = 7.0
    output.write_text(json.dumps(held))
    resumed = analyze(path, feeds(), output).points
    assert [p.value for p in resumed] == [7.0, *(pytest.approx(p.value) for p in whole[1:])]
    # Other data: nothing of it holds any more.
    assert analyze(path, feeds(4), output).points[0].value != 7.0


def test_the_users_function_measures(tmp_path: Path) -> None:
    calls: list[Any] = []

    def score(session: Any) -> float:
        calls.append([info.name for info in session.inputs])
        return -float(np.abs(session(feeds(1)[0]["x"])).sum())

    options = SensitivityOptions(evaluate=score, measure="mine", ratios=(0.5,))
    found = analyze(model(tmp_path), feeds(), tmp_path / "s.json", options)
    assert len(found.points) == 2
    assert calls == [["x"]] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not what `relaxc sensitivity` writes"),
        ('{"schema_version": 99, "points": []}', "is of another version"),
        (None, "cannot read"),
    ],
)
def test_files_that_are_no_analysis(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "s.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read_curves(path)


def test_ratios_are_shares() -> None:
    with pytest.raises(OptionError, match="ratios must be between 0 and 1"):
        SensitivityOptions(ratios=(0.5, 1.0))


def test_an_unknown_group_is_an_error() -> None:
    group = Group("g", (0, 1, 2, 3), 1, ("g",))
    scores = {c: float(c) for c in group.channels}
    with pytest.raises(OptionError, match="says nothing of the channels of `g`"):
        scores_by_curves([group], scores, {"h": [(0.5, 1.0)]})
    # A dip is noise: scores never fall.
    found = scores_by_curves([group], scores, {"g": [(0.25, 3.0), (0.5, 1.0), (0.75, 5.0)]})
    assert sorted(found, key=found.__getitem__) == [0, 1, 2, 3]
    assert sum(list(found.values())[:3]) == pytest.approx(5.0, rel=1e-4)


def run(capfd: pytest.CaptureFixture[str], *args: str) -> Outcome:
    code = main(list(args))
    return Outcome(code, *capfd.readouterr())


def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path)
    np.savez(tmp_path / "data.npz", x=np.concatenate([feed["x"] for feed in feeds()]))
    line = ["sensitivity", str(path), "--data", str(tmp_path / "data.npz"), "--ratios", "0.5"]
    outcome = run(capfd, *line, "--json")
    assert outcome.code == 0
    groups = json.loads(outcome.out)["groups"]
    assert list(groups) == ["strong", "weak"]
    written = str(path.with_suffix(".sensitivity.json"))
    for given in (written, str(tmp_path / "data.npz")):
        pruned = run(
            capfd, "compile", str(path), "-o", str(tmp_path / "a.rxc"),
            "--prune", "channels=0.4", "--round-to", "1", "--sensitivity", given, "--json",
        )  # fmt: skip
        assert pruned.code == 0, pruned.err
        left = {g["name"]: g["after"] for g in json.loads(pruned.out)["pruned"]["groups"]}
        assert left["weak"] < left["strong"]
    assert main([*line, "--ratios", "half"]) == 2
