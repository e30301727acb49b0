"""Times from operations, bytes and peaks."""

from __future__ import annotations

import pytest

from relaxc.measure.prediction import predicted_by_dtype, predicted_seconds
from relaxc.measure.roofline import Roofline

ROOFLINE = Roofline(1, {"float32": 100.0, "int8": 400.0}, ((64, 50.0), (1000, 10.0)))
LAYERS = [
    {"macs": 500, "bytes": 40},  # 10 s of arithmetic, 0.8 s of traffic in the cache
    {"macs": 50, "bytes": 400},  # 1 s, 40 s from memory
    {"macs": 0, "bytes": 4000},  # fused
]


def test_each_layer_meets_its_own_bound() -> None:
    assert predicted_seconds(LAYERS, ROOFLINE) == pytest.approx(10 + 40)


def test_narrow_types_are_faster_and_shorter() -> None:
    # 400 bytes become 100, which do not fit the cache either.
    assert predicted_seconds(LAYERS, ROOFLINE, "int8") == pytest.approx(2.5 + 10)
    assert predicted_by_dtype(LAYERS, ROOFLINE) == {
        "float32": pytest.approx(50),
        "int8": pytest.approx(12.5),
    }


def test_without_products_the_bytes_count() -> None:
    assert predicted_seconds(LAYERS[2:], ROOFLINE) == pytest.approx(400)
    assert predicted_seconds([], ROOFLINE) == 0
