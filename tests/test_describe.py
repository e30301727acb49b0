"""What is inside of models and artifacts."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from builders import dense_model, onnx_model

from relaxc.describe import describe
from relaxc.errors import ModelError
from relaxc.frontend.importer import from_onnx


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


def test_operators_are_those_of_the_file_branches_included() -> None:
    """Not what remains of them after folding and conversion."""
    graph = """g (float[2] x, bool c) => (float[2] y) {
        two = Constant <value_floats=[2.0, 2.0]> ()
        y = If (c) <
            then_branch = a () => (float[2] t) { t = Add(x, two) },
            else_branch = b () => (float[2] e) { e = Identity(x) }
        > }"""
    imported = from_onnx(onnx_model(graph))
    assert sorted(imported.operators) == ["Add", "Constant", "Identity", "If"]


def test_symbols(tmp_path: Path) -> None:
    onnx.save(dense_model(), tmp_path / "a.onnx")
    assert describe(tmp_path / "a.onnx").symbols == ["n"]
    assert describe(tmp_path / "a.onnx", {"x": (2, 4)}).symbols == []


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        describe(tmp_path / "nosuch")
