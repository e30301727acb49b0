"""relaxc optimize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import Run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    samples = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    np.savez(path, x=samples)
    return path


def test_a_search(relaxc: Run, conv_onnx: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.rxc"
    done = relaxc("optimize", conv_onnx, "--data", data, "-o", output, "--threads", 1, "--no-tune")
    assert done.code == 0, done.err
    assert "  0  float32: score 1, drop 0 (allowed 0.01)" in done.out
    assert "The goal is met." in done.out
    assert "Recipe" in done.out
    document = relaxc(
        "optimize",
        conv_onnx,
        "--data",
        data,
        "-o",
        output,
        "--threads",
        1,
        "--no-tune",
        "--resume",
        "--json",
    ).json
    assert document["meets_goal"]
    assert document["trials"][0]["recipe"]["precision"] == "float32"
    assert document["best"] in document["front"]
    recipe = tmp_path / "m.rxc.recipe.yaml"
    again = tmp_path / "again.rxc"
    done = relaxc("optimize", conv_onnx, "--data", data, "--recipe", recipe, "-o", again)
    assert done.code == 0, done.err
    assert again.read_bytes() == output.read_bytes()


def test_a_goal_that_is_missed(relaxc: Run, conv_onnx: Path, data: Path, tmp_path: Path) -> None:
    args = ("--max-latency", "1us", "--max-size", "1kB", "--time-budget", "1s")
    done = relaxc(
        "optimize", conv_onnx, "--data", data, "-o", tmp_path / "m.rxc", "--no-tune", *args
    )
    assert done.code == 1
    assert "GOAL NOT MET" in done.out
    assert (tmp_path / "m.rxc").is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--max-drop", "1"], "cannot read `1` as a drop"),
        (["--time-budget", "soon"], "cannot read `soon` as a duration"),
        (["--max-size", "small"], "cannot read `small` as a size"),
        (["--metric", "top1"], "metric `top1` needs labels"),
        (["--metric", "beauty"], "unknown metric `beauty`"),
        (["--evaluate", "nowhere"], "`nowhere` is not a function; write `module:function`"),
        (["--evaluate", "json:nothing"], "cannot import `nothing` from module `json`"),
        (["--labels", "none.npy"], "cannot read labels from `none.npy`"),
        (["--recipe", "none.yaml"], "cannot read recipe `none.yaml`"),
    ],
)
def test_bad_options(
    relaxc: Run, conv_onnx: Path, data: Path, tmp_path: Path, args: list[str], message: str
) -> None:
    done = relaxc(
        "optimize", conv_onnx, "--data", data, "-o", tmp_path / "m.rxc", "--no-tune", *args
    )
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "m.rxc").exists()


def test_data_that_is_missing(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    done = relaxc("optimize", conv_onnx, "--data", tmp_path / "none.npz")
    assert done.code == 2
    assert "does not exist" in done.err
