"""Which recipes are likely to be fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaxc.errors import TargetError
from relaxc.measure.roofline import Roofline
from relaxc.options import QuantizeOptions
from relaxc.search import predictions
from relaxc.search.predictions import Predictions
from relaxc.search.recipe import Recipe

INT8 = Recipe(quantize=QuantizeOptions())


def test_by_what_the_machine_multiplies(
    conv_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = {"float32": 1e9, "bfloat16": 2e9, "int8": 4e9}
    monkeypatch.setattr(predictions, "roofline", lambda _n: Roofline(1, peaks, ((1, 1e12),)))
    found = Predictions(conv_artifact, 1)
    times = [found.seconds(recipe) for recipe in (Recipe(), Recipe(precision="bfloat16"), INT8)]
    assert times == pytest.approx([times[0], times[0] / 2, times[0] / 4])
    assert found.seconds(Recipe(precision="tf32")) == float("inf")


def test_nothing_is_known_without_a_compiler(
    conv_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_threads: int) -> Roofline:
        raise TargetError("there is none")

    monkeypatch.setattr(predictions, "roofline", fail)
    assert Predictions(conv_artifact, 1).seconds(INT8) == float("inf")
