"""Ranges read off histograms."""

from __future__ import annotations

import numpy as np
import pytest

from relaxc.passes.quantize.affine import activation_params
from relaxc.passes.quantize.calibration import METHODS
from relaxc.passes.quantize.histogram import Histogram


def observed(values: np.ndarray) -> Histogram:
    seen = Histogram()
    for part in np.array_split(values.astype(np.float32), 4):
        seen.add(part)
    return seen


def error(values: np.ndarray, bounds: tuple[float, float]) -> float:
    params = activation_params(*bounds, symmetric=False)
    return float(((params.dequantize(params.quantize(values)) - values) ** 2).mean())


@pytest.fixture
def with_outliers() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(100_000)
    values[::20_000] *= 40
    return values


def test_minmax_keeps_everything(with_outliers: np.ndarray) -> None:
    low, high = METHODS["minmax"](observed(with_outliers), False)
    assert low == np.float32(with_outliers.min())
    assert high == np.float32(with_outliers.max())


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_outliers_are_clipped(method: str, with_outliers: np.ndarray) -> None:
    low, high = METHODS[method](observed(with_outliers), False)
    assert with_outliers.min() < low < -2 and 2 < high < with_outliers.max()


def test_mse_is_the_best_of_all(with_outliers: np.ndarray) -> None:
    seen = observed(with_outliers)
    errors = {name: error(with_outliers, method(seen, False)) for name, method in METHODS.items()}
    assert errors["mse"] <= min(errors.values()) * 1.02


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_has_a_range(method: str) -> None:
    low, high = METHODS[method](observed(np.full(100, 3.0)), False)
    params = activation_params(low, high, symmetric=False)
    kept = params.dequantize(params.quantize(np.array([3], np.float32)))
    np.testing.assert_allclose(kept, 3, atol=0.02)
