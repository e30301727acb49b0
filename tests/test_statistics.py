"""Statistics of activations outlive a compilation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import conv_model

import relaxc
from relaxc import calibrate, emitting
from relaxc.options import CompileOptions, QuantizeOptions


def samples(seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]


Compile = Callable[..., relaxc.CompileResult]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """One entry for each calibration that ran; the cache is empty before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runs: list[int] = []
    inner = calibrate.observe

    def observe(*args: object) -> object:
        runs.append(1)
        return inner(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("relaxc.emitting.observe", observe)
    return runs


@pytest.fixture
def build(tmp_path: Path) -> Compile:
    def compile_(
        model: onnx.ModelProto, data: object, method: str = "minmax"
    ) -> relaxc.CompileResult:
        quantize = QuantizeOptions(
            calibration=method,  # type: ignore[arg-type]
            correct=("round", "bias"),
            speed_gate=False,
        )
        path = tmp_path / "m.rxc"
        options = CompileOptions(quantize=quantize)
        return relaxc.compile(model, path, options, calibration_data=data)  # type: ignore[arg-type]

    return compile_


def test_equal_model_and_data_are_measured_once(
    measured: list[int], build: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []
    inner = emitting.run_piece

    def run_piece(*args: object) -> object:
        pieces.append(1)
        return inner(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("relaxc.probes.run_piece", run_piece)
    first = build(conv_model(), samples()).path.read_bytes()
    second = build(conv_model(), samples())
    assert second.path.read_bytes() == first
    assert second.warnings == ()
    build(conv_model(), iter(samples()))
    # The fit of weights, and the errors of layers.
    assert len(pieces) == 2
    for method in ("percentile", "mse", "entropy"):
        build(conv_model(), lambda _inputs: iter(samples()), method)
    assert len(measured) == 1


def test_other_data_and_models_are_measured(measured: list[int], build: Compile) -> None:
    build(conv_model(), samples())
    build(conv_model(), samples(1))
    changed = conv_model()
    weight = changed.graph.initializer[0]
    weight.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name)
    )
    build(changed, samples())
    assert len(measured) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_entry_is_measured_again(
    damage: str, measured: list[int], build: Compile, tmp_path: Path
) -> None:
    good = build(conv_model(), samples()).path.read_bytes()
    entries = list((tmp_path / "cache/relaxc/statistics").glob("*.stats"))
    for entry in entries:
        content = bytearray(entry.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 0xFF
        damaged = {"cut": content[:99], "flip": content, "empty": b""}[damage]
        entry.write_bytes(bytes(damaged))
    result = build(conv_model(), samples())
    # Histograms, fitted weights, and the errors of layers.
    assert len([w for w in result.warnings if "are damaged" in w]) == len(entries) == 3
    assert result.path.read_bytes() == good
    assert build(conv_model(), samples()).warnings == ()
    assert len(measured) == 2


def test_the_oldest_entries_make_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: list[int], build: Compile
) -> None:
    build(conv_model(), samples())
    first = set((tmp_path / "cache/relaxc/statistics").glob("*.stats"))
    monkeypatch.setattr("relaxc.statistics._MOST_IN_ALL", sum(e.stat().st_size for e in first))
    build(conv_model(), samples(1))
    left = list((tmp_path / "cache/relaxc/statistics").glob("*.stats"))
    assert 0 < len(left) < 6
    assert not first <= set(left)
    build(conv_model(), samples(1))
    assert len(measured) == 2
