"""relaxc check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import Run

from relaxc import cpu
from relaxc.frontend.operators import CONVERTERS


@pytest.fixture
def wrong_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler with a bug."""
    from tvm import relax

    def convert(ctx: Any) -> relax.Expr:
        return relax.op.nn.leakyrelu(ctx.input(0), alpha=0.5)

    monkeypatch.setitem(CONVERTERS, "Relu", convert)


def test_a_model_that_agrees(relaxc: Run, conv_onnx: Path) -> None:
    done = relaxc("check", conv_onnx)
    assert (done.code, done.err) == (0, "")
    assert "PASSED (atol 1e-05, rtol 0.001, cos 0.9999; reference: ONNX Runtime)" in done.out


def test_an_artifact_that_agrees(relaxc: Run, conv_artifact: Path, conv_onnx: Path) -> None:
    assert relaxc("check", conv_artifact, "--model", conv_onnx).code == 0


def test_an_artifact_is_compiled_already(relaxc: Run, conv_artifact: Path, conv_onnx: Path) -> None:
    done = relaxc("check", conv_artifact, "--model", conv_onnx, "--postprocess", "softmax")
    assert done.code == 2
    assert "`--postprocess` is for models that are compiled first; `" in done.err


@pytest.mark.usefixtures("wrong_relu")
def test_a_difference_exits_with_one(relaxc: Run, conv_onnx: Path) -> None:
    done = relaxc("check", conv_onnx)
    assert done.code == 1
    assert "FAILED: y differ" in done.out


@pytest.mark.usefixtures("wrong_relu")
def test_the_first_layer_that_diverges(relaxc: Run, conv_onnx: Path) -> None:
    done = relaxc("check", conv_onnx, "--per-layer")
    assert "First layer that diverges: Relu `d` (number 3 of 4; 2 layers agree)" in done.out
    document = relaxc("check", conv_onnx, "--per-layer", "--json").json
    assert document["passed"] is False
    assert document["first_divergence"]["op"] == "Relu"
    assert len(document["layers"]) == 4


def test_all_layers_agree(relaxc: Run, conv_onnx: Path) -> None:
    assert "All 4 layers agree." in relaxc("check", conv_onnx, "--per-layer").out


def test_tolerances(relaxc: Run, conv_onnx: Path) -> None:
    done = relaxc("check", conv_onnx, "--atol", 0, "--rtol", 0, "--json")
    exact = done.json["outputs"][0]["max_abs"] == 0
    assert done.code == (0 if exact else 1)
    assert relaxc("check", conv_onnx, "--rtol", -1).code == 2


def test_an_artifact_without_its_model(relaxc: Run, conv_artifact: Path) -> None:
    done = relaxc("check", conv_artifact)
    assert done.code == 2
    assert "give the ONNX model that it was compiled from with `--model`" in done.err


@pytest.mark.skipif("avx512bf16" not in cpu.features(), reason="needs dot products of bfloat16")
def test_the_tolerance_fits_the_precision(relaxc: Run, conv_onnx: Path, tmp_path: Path) -> None:
    limits = {"atol": 1e-2, "rtol": 0.2, "cos": 0.99}
    document = relaxc("check", conv_onnx, "--precision", "bf16", "--json").json
    assert document["passed"] and document["tolerance"] == limits
    artifact = tmp_path / "a.rxc"
    assert relaxc("compile", conv_onnx, "-o", artifact, "--precision", "bf16").code == 0
    document = relaxc("check", artifact, "--model", conv_onnx, "--cos", 0.5, "--json").json
    assert document["tolerance"] == {**limits, "cos": 0.5}


def test_a_metric_of_ones_own(relaxc: Run, conv_onnx: Path) -> None:
    document = relaxc("check", conv_onnx, "--evaluate", "builtins:callable", "--json").json
    assert document["passed"] and document["score"] == 1
    assert relaxc("check", conv_onnx, "--evaluate", "builtins").code == 2
