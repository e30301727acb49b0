"""What is inside of models and artifacts."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from builders import dense_model

from relaxc.describe import describe
from relaxc.errors import ModelError


def test_a_model_and_its_artifact_agree(conv_onnx: Path, conv_artifact: Path) -> None:
    model, artifact = describe(conv_onnx), describe(conv_artifact)
    assert (model.kind, artifact.kind) == ("onnx", "artifact")
    assert model.inputs == artifact.inputs
    assert model.outputs == artifact.outputs
    assert model.layers == artifact.layers
    assert model.macs == artifact.macs == 4 * 64 * 27
    assert model.activation_bytes == artifact.activation_bytes


def test_operators_are_counted(conv_onnx: Path) -> None:
    assert describe(conv_onnx).operators == {
        "BatchNormalization": 1,
        "Conv": 1,
        "GlobalAveragePool": 1,
        "Relu": 1,
    }


def test_symbols(tmp_path: Path) -> None:
    onnx.save(dense_model(), tmp_path / "a.onnx")
    assert describe(tmp_path / "a.onnx").symbols == ["n"]
    assert describe(tmp_path / "a.onnx", {"x": (2, 4)}).symbols == []


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        describe(tmp_path / "nosuch")
