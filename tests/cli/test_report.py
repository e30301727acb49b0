"""relaxc report."""

from __future__ import annotations

from pathlib import Path

from commands import Run


def test_two_artifacts(relaxc: Run, conv_artifact: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.html"
    done = relaxc("report", conv_artifact, conv_artifact, "-o", output, "--threads", 1)
    assert (done.code, done.out) == (0, f"Report: {output}\n")
    assert "conv.rxc: " in output.read_text(encoding="utf-8")
    assert relaxc("report", conv_artifact, "-o", output, "--json").json["report"] == str(output)


def test_what_is_no_artifact(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    done = relaxc("report", conv_onnx, "-o", tmp_path / "r.html")
    assert done.code == 65
    assert not (tmp_path / "r.html").exists()
