"""Histograms that grow with what they see."""

from __future__ import annotations

import numpy as np
import pytest

from relaxc.passes.quantize.histogram import Histogram


def test_every_value_is_counted_in_its_bin() -> None:
    rng = np.random.default_rng(0)
    seen, batches = Histogram(), []
    for scale in (0.01, 1.0, 50.0, 3.0):
        batches.append((rng.standard_normal(1000) * scale).astype(np.float32))
        seen.add(batches[-1])
    values = np.concatenate(batches)
    assert seen.counts.sum() == values.size
    assert (seen.minimum, seen.maximum) == (values.min(), values.max())
    edges = np.linspace(seen.low, seen.high, seen.counts.size + 1)
    expected = np.histogram(values, edges)[0]
    # Values on an edge may fall to either side.
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(expected)).max() <= 2


def test_constants_and_empty_arrays() -> None:
    seen = Histogram()
    seen.add(np.zeros((0, 3), np.float32))
    assert seen.is_empty
    for value in (0.0, 5.0, -7.0):
        seen.add(np.full(10, value, np.float32))
    assert seen.counts.sum() == 30
    assert (seen.minimum, seen.maximum) == (-7, 5)
    assert seen.low <= -7 < 5 < seen.high


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Histogram().add(np.array([1, value], np.float32))
