"""Comparing with ONNX Runtime, and finding where results part."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import conv_model, dense_model
from onnx import numpy_helper

import relaxc
from relaxc.errors import ModelError, OptionError, TargetError
from relaxc.frontend.operators import CONVERTERS
from relaxc.measure.check import CheckOptions, check
from relaxc.measure.compare import Tolerance
from relaxc.measure.expose import expose_layers
from relaxc.measure.feeds import FeedOptions
from relaxc.measure.reference import run_reference
from relaxc.options import CompileOptions, QuantizeOptions
from relaxc.report import checking


def test_a_model_agrees(conv_onnx: Path) -> None:
    result = check(conv_onnx, CheckOptions(per_layer=True))
    assert result.is_ok
    assert [a.name for a in result.outputs] == ["y"]
    assert [layer.layer.op for layer in result.layers] == [
        "Conv",
        "BatchNormalization",
        "Relu",
        "GlobalAveragePool",
    ]
    assert result.first_divergence is None


def test_an_artifact_is_compared_with_its_model(conv_artifact: Path, conv_onnx: Path) -> None:
    result = check(conv_artifact, CheckOptions(model=conv_onnx))
    assert result.is_ok


def test_layers_of_an_artifact_are_compiled_as_it_was(tmp_path: Path) -> None:
    onnx.save(dense_model(), tmp_path / "a.onnx")
    options = CompileOptions(input_shapes={"x": (5, 4)}, opt_level=1)
    relaxc.compile(tmp_path / "a.onnx", tmp_path / "a.rxc", options)
    check_options = CheckOptions(model=tmp_path / "a.onnx", per_layer=True)
    result = check(tmp_path / "a.rxc", check_options)
    assert result.is_ok
    assert result.layers[0].results[0].shape == (5, 300)


def test_an_artifact_needs_its_model(conv_artifact: Path) -> None:
    with pytest.raises(OptionError, match=r"is an artifact; give the ONNX model .* `--model`"):
        check(conv_artifact, CheckOptions())


def test_another_model_is_noticed(conv_artifact: Path, tmp_path: Path) -> None:
    other = conv_model()
    weight = numpy_helper.to_array(other.graph.initializer[0]) * np.float32(1.5)
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    onnx.save(other, tmp_path / "other.onnx")
    result = check(conv_artifact, CheckOptions(model=tmp_path / "other.onnx"))
    assert not result.is_ok
    assert "compiled from another file" in result.warnings[0]


def test_outputs_of_other_names_are_refused(conv_artifact: Path, tmp_path: Path) -> None:
    other = conv_model()
    other.graph.node[-1].output[0] = other.graph.output[0].name = "z"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(OptionError, match=r"outputs of .* \(`y`\) are not .* \(`z`\); give"):
        check(conv_artifact, CheckOptions(model=tmp_path / "other.onnx"))


def test_the_first_layer_that_diverges_is_named(
    conv_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvm import relax

    def wrong_relu(ctx: Any) -> relax.Expr:
        return relax.op.nn.leakyrelu(ctx.input(0), alpha=0.5)

    monkeypatch.setitem(CONVERTERS, "Relu", wrong_relu)
    result = check(conv_onnx, CheckOptions(per_layer=True))
    assert not result.is_ok
    assert result.first_divergence is not None
    assert result.first_divergence.layer.op == "Relu"


def test_inputs_can_come_from_a_file(conv_onnx: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.ones((1, 3, 8, 8), np.float32))
    assert check(conv_onnx, CheckOptions(feed=FeedOptions(path=tmp_path / "in.npz"))).is_ok


def test_symbolic_dimensions_get_sizes(tmp_path: Path) -> None:
    onnx.save(dense_model(), tmp_path / "a.onnx")
    options = CheckOptions(compile=CompileOptions(input_shapes={"x": (5, 4)}))
    assert check(tmp_path / "a.onnx", options).outputs[0].shape == (5, 300)


def test_every_intermediate_result_is_exposed(conv_onnx: Path, tmp_path: Path) -> None:
    layers = expose_layers(conv_onnx, tmp_path / "all.onnx")
    outputs = [value.name for value in onnx.load(tmp_path / "all.onnx").graph.output]
    assert outputs == ["y", "a", "c", "d"]
    assert [layer.outputs for layer in layers] == [("a",), ("c",), ("d",), ("y",)]


def test_an_unreadable_model_cannot_be_exposed(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("junk")
    with pytest.raises(ModelError, match="cannot be examined layer by layer"):
        expose_layers(tmp_path / "a.onnx", tmp_path / "b.onnx")


def test_the_reference_may_fail(conv_onnx: Path) -> None:
    with pytest.raises(ModelError, match="the reference, ONNX Runtime, fails on"):
        run_reference(conv_onnx, {"x": np.ones((1, 1), np.float32)})


def test_the_reference_may_be_missing(conv_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        TargetError, match=r'comparing needs ONNX Runtime; run `pip install "relaxc'
    ):
        run_reference(conv_onnx, {})


def test_layers_of_a_quantized_artifact(conv_onnx: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    options = CompileOptions(quantize=QuantizeOptions(speed_gate=False))
    relaxc.compile(conv_onnx, tmp_path / "a.rxc", options, calibration_data=data)
    feed = FeedOptions(path=tmp_path / "in.npz")
    np.savez(tmp_path / "in.npz", x=data[0]["x"])
    asked = CheckOptions(
        model=conv_onnx, per_layer=True, feed=feed, evaluate=lambda model: len(model.inputs)
    )
    result = check(tmp_path / "a.rxc", asked)
    assert result.is_ok and result.is_quantized and result.score == 1
    assert "Evaluated: 1" in checking.as_text(result)
    # A hundredth of the energy: 20 dB.
    assert result.tolerance == Tolerance(atol=1e-5, rtol=0.2, cos=0.995)
    assert [w for w in result.warnings if "quantized anew, with the ranges of these inputs" in w]
    ratios = [r.sqnr_db for layer in result.layers for r in layer.results]
    # Rounded, but not by much.
    assert 20 < min(ratios) < 60
    assert f"{min(ratios):.1f}" in checking.as_text(result)
