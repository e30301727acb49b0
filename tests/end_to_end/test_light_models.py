"""Classic topologies with random weights against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import light_models
import onnx
import pytest

from relaxc.measure.check import CheckOptions, check


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "squeezenet" else pytest.mark.long)
        for name in light_models.NAMES
    ],
)
def test_outputs_agree(name: str, tmp_path: Path) -> None:
    onnx.save(light_models.light_model(name), tmp_path / "model.onnx")
    result = check(tmp_path / "model.onnx", CheckOptions())
    assert result.is_ok, result.outputs


def test_there_are_nine() -> None:
    assert len(light_models.NAMES) == 9


def test_equal_seeds_give_equal_weights() -> None:
    first, second = (light_models.light_model("squeezenet", seed=1) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
