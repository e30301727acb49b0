"""Artifacts and engines that take turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import onnx_model, relu_model

import relaxc
from relaxc.errors import InputError, ModelError, OptionError
from relaxc.measure.bench import BenchOptions
from relaxc.measure.race import race
from relaxc.measure.signal_stack import signal_stack

QUICK = BenchOptions(warmup_ms=0, duration_s=0, iterations=6)


def test_everyone_has_turns(conv_artifact: Path, conv_onnx: Path) -> None:
    result = race([conv_artifact, conv_artifact, conv_onnx], QUICK, rounds=3)
    engines = [lap.engine for lap in result.laps]
    assert engines[:3] == ["relaxc", "relaxc", "ONNX Runtime"]
    assert result.reference == 2
    assert result.shapes == {"x": (1, 3, 8, 8)}
    for lap in result.laps:
        assert len(lap.latencies_ms) == 6
        assert lap.throughput > 0
        assert lap.load_ms > 0
        assert lap.max_rel < 1e-2  # a peer's own precision may be bfloat16
        assert lap.cosine > 0.999
    assert result.laps[0].max_rel < 1e-5


def test_streams_call_at_the_same_time(relu_artifact: Path) -> None:
    options = BenchOptions(warmup_ms=0, duration_s=0, iterations=4, streams=2, number=3)
    (one, two) = race([relu_artifact, relu_artifact], options, rounds=2).laps
    assert len(one.latencies_ms) == len(two.latencies_ms) == 8


def test_openvino_computes_the_same(conv_artifact: Path, conv_onnx: Path) -> None:
    pytest.importorskip("openvino")
    result = race([conv_artifact, conv_onnx], QUICK, rounds=1)
    (lap,) = (lap for lap in result.laps if lap.engine == "OpenVINO f32")
    assert lap.max_rel < 1e-5


def test_outputs_keep_their_names_in_openvino(tmp_path: Path) -> None:
    """Nothing is added: the sum is the product, under both names."""
    pytest.importorskip("openvino")
    source, artifact = tmp_path / "m.onnx", tmp_path / "m.rxc"
    model = onnx_model(
        "g (float[1,4] x) => (float[1,3] y) { a = MatMul(x, w)  y = Add(a, zeros) }",
        w=np.ones((4, 3), np.float32),
        zeros=np.zeros(3, np.float32),
    )
    onnx.save(model, source)
    relaxc.compile(model, artifact)
    laps = race([artifact, source], QUICK, rounds=1).laps
    assert [lap.max_rel < 1e-2 for lap in laps] == [True] * 4


def test_signals_still_arrive(conv_artifact: Path, conv_onnx: Path) -> None:
    """OpenVINO would leave the thread a stack for them that is gone."""
    pytest.importorskip("openvino")
    before = signal_stack()
    race([conv_artifact, conv_onnx], QUICK, rounds=1)
    after = signal_stack()
    assert (after.address, after.flags) == (before.address, before.flags)


def test_no_artifact(conv_onnx: Path) -> None:
    with pytest.raises(OptionError, match="none of the files is an artifact"):
        race([conv_onnx, conv_onnx], QUICK)


def test_kernels_are_profiled_alone(conv_artifact: Path) -> None:
    with pytest.raises(OptionError, match="for one artifact only"):
        race([conv_artifact, conv_artifact], BenchOptions(profile=True))


def test_outputs_of_another_model(conv_artifact: Path, tmp_path: Path) -> None:
    other = relu_model()
    relaxc.compile(other, tmp_path / "relu.rxc")
    with pytest.raises(InputError, match=r"relaxc cannot run `.*relu.rxc` on these inputs: "):
        race([conv_artifact, tmp_path / "relu.rxc"], QUICK)


def test_a_model_that_a_peer_refuses(conv_artifact: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="ONNX Runtime fails on `.*broken.onnx`: "):
        race([conv_artifact, broken], QUICK)


def test_inputs_that_a_peer_refuses(relu_artifact: Path, conv_onnx: Path) -> None:
    with pytest.raises(InputError, match="ONNX Runtime cannot run `.*conv.onnx` on these inputs: "):
        race([relu_artifact, conv_onnx], QUICK)
