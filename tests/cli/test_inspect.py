"""relaxc inspect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import dense_model, onnx_model
from commands import Run

from relaxc.errors import TargetError


def test_a_model(relaxc: Run, conv_onnx: Path) -> None:
    done = relaxc("inspect", conv_onnx)
    assert (done.code, done.err) == (0, "")
    assert "MACs:        6.91 k" in done.out
    assert "BatchNormalization" in done.out
    assert "nn.conv2d" in done.out
    assert "GFLOP/s" in done.out


def test_an_artifact(relaxc: Run, conv_artifact: Path) -> None:
    done = relaxc("inspect", conv_artifact, "--no-roofline")
    assert done.code == 0
    assert "lib/model.so" in done.out
    assert "CPU features:" in done.out
    assert "GFLOP/s" not in done.out


def test_json_of_both(relaxc: Run, conv_onnx: Path, conv_artifact: Path) -> None:
    model = relaxc("inspect", conv_onnx, "--json").json
    artifact = relaxc("inspect", conv_artifact, "--json", "--no-roofline").json
    assert model["kind"] == "onnx"
    assert artifact["kind"] == "artifact"
    assert model["manifest"] is None
    assert artifact["manifest"]["schema_version"] == 1
    assert model["macs"] == artifact["macs"] == 4 * 64 * 27
    assert model["layers"][0]["bound"] in ("compute", "memory")
    assert "bound" not in artifact["layers"][0]


def test_symbols_are_pointed_out(relaxc: Run, tmp_path: Path) -> None:
    onnx.save(dense_model(), tmp_path / "a.onnx")
    assert "counting n as 1" in relaxc("inspect", tmp_path / "a.onnx").out
    fixed = relaxc("inspect", tmp_path / "a.onnx", "--input-shapes", "x:[7,4]", "--json").json
    assert fixed["macs"] == 7 * 4 * 300
    assert fixed["symbols"] == []


def test_warnings_go_to_stderr(relaxc: Run, tmp_path: Path) -> None:
    weight = np.array([1, np.nan], np.float32)
    model = onnx_model("g (float[2] x) => (float[2] y) { y = Mul(x, w) }", w=weight)
    onnx.save(model, tmp_path / "a.onnx")
    done = relaxc("inspect", tmp_path / "a.onnx", "--no-roofline")
    assert done.err == "warning: weight `w` holds 1 NaN values\n"
    assert "NaN" not in done.out


def test_the_costliest_layers(relaxc: Run, conv_onnx: Path) -> None:
    done = relaxc("inspect", conv_onnx, "--top", 1, "--no-roofline")
    assert "nn.conv2d" in done.out
    assert "nn.relu" not in done.out


def test_a_damaged_artifact(relaxc: Run, conv_artifact: Path, tmp_path: Path) -> None:
    data = bytearray(conv_artifact.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.rxc").write_bytes(bytes(data))
    done = relaxc("inspect", tmp_path / "a.rxc")
    assert done.code == 65
    assert "is damaged" in done.err


def test_without_a_compiler_there_are_no_estimates(
    relaxc: Run, conv_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_threads: int) -> None:
        raise TargetError("no C++ compiler found")

    monkeypatch.setattr("relaxc.measure.roofline.roofline", fail)
    done = relaxc("inspect", conv_artifact)
    assert done.code == 0
    assert done.err == "warning: no roofline estimates: no C++ compiler found\n"
    assert "GFLOP/s" not in done.out
