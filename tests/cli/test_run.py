"""relaxc run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import Run


def test_made_up_inputs(relaxc: Run, relu_artifact: Path) -> None:
    done = relaxc("run", relu_artifact, "--input-shapes", "x:[4,3]")
    assert (done.code, done.err) == (0, "")
    assert "float32[4, 3]" in done.out


def test_inputs_and_outputs_in_files(relaxc: Run, relu_artifact: Path, tmp_path: Path) -> None:
    x = np.array([[1, -2, 3]], np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    done = relaxc("run", relu_artifact, "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert done.code == 0
    assert np.load(tmp_path / "out.npz")["y"].tolist() == [[1, 0, 3]]


def test_equal_seeds_give_equal_outputs(relaxc: Run, relu_artifact: Path) -> None:
    first, second, other = (
        relaxc("run", relu_artifact, "--json", "--seed", seed).json["outputs"] for seed in (1, 1, 2)
    )
    assert first == second != other


def test_times(relaxc: Run, relu_artifact: Path) -> None:
    done = relaxc("run", relu_artifact, "--print-time", "--repeat", 3, "--number", 2)
    head, row = done.out.splitlines()[-2:]
    names = ["mean", "(ms)", "median", "(ms)", "max", "(ms)", "min", "(ms)", "std", "(ms)"]
    assert head.split() == names
    assert len(row.split()) == 5


def test_the_largest_elements(relaxc: Run, relu_artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.array([[1, 7, 3]], np.float32))
    done = relaxc("run", relu_artifact, "-i", tmp_path / "in.npz", "--print-top", 2, "--json")
    top = done.json["outputs"][0]["top"]
    assert top == [{"index": [0, 1], "value": 7}, {"index": [0, 2], "value": 3}]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--input-shapes", "x:[2,4]"], "says 4 where the model has 3"),
        (["--device", "gpu"], "unknown device `gpu`"),
        (["--threads", "0"], "threads must be at least 1"),
        (["-i", "nosuch.npz"], "cannot read inputs from `nosuch.npz`"),
        (["--fill-mode", "noise"], "invalid value for '--fill-mode'"),
    ],
)
def test_bad_options(relaxc: Run, relu_artifact: Path, args: list[str], message: str) -> None:
    done = relaxc("run", relu_artifact, *args)
    assert done.code == 2
    assert message in done.err


def test_an_onnx_model(relaxc: Run, conv_onnx: Path) -> None:
    done = relaxc("run", conv_onnx)
    assert done.code == 65
    assert "compile ONNX models with `relaxc compile`" in done.err


def test_outputs_that_cannot_be_written(relaxc: Run, relu_artifact: Path) -> None:
    done = relaxc("run", relu_artifact, "-o", "/nosuch/out.npz")
    assert done.code == 73
    assert "cannot write `/nosuch/out.npz`" in done.err
