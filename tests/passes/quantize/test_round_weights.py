"""Rounding that makes up for its own errors."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from relaxc.passes.quantize.round_weights import Grid, float_grid, round_compensated, search_grid

RNG = np.random.default_rng(0)
# Data whose channels depend on each other and differ in size, as they do in networks.
DATA = RNG.standard_normal((400, 12)) @ RNG.standard_normal((12, 32)) * RNG.uniform(0.2, 3, 32)
DATA += 0.1 * RNG.standard_normal(DATA.shape)
GRAM = DATA.T @ DATA
WEIGHT = RNG.standard_normal((32, 6))
FORMS = pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True)])


def loss(integers: np.ndarray, grid: Grid) -> float:
    rounded = integers * grid.at(slice(None))[0]
    return float(((DATA @ (rounded - WEIGHT)) ** 2).sum())


@FORMS
def test_compensation_beats_rounding_to_nearest(bits: int, symmetric: bool) -> None:
    grid = search_grid(WEIGHT, np.diag(GRAM), 8, bits, symmetric)
    nearest = grid.round(WEIGHT, slice(None))
    assert loss(round_compensated(WEIGHT, GRAM, grid), grid) < 0.5 * loss(nearest, grid)


@FORMS
def test_integers_stay_on_the_grid(bits: int, symmetric: bool) -> None:
    grid = search_grid(WEIGHT, np.diag(GRAM), 8, bits, symmetric)
    integers = round_compensated(WEIGHT, GRAM, grid) + grid.at(slice(None))[1]
    np.testing.assert_array_equal(integers, np.rint(integers))
    assert grid.low <= integers.min()
    assert integers.max() <= grid.high
    assert (grid.low, grid.high) == {
        (4, True): (-8, 7),
        (4, False): (0, 15),
        (8, True): (-127, 127),
    }[bits, symmetric]


def test_float8() -> None:
    grid = float_grid(WEIGHT, 8)
    nearest = grid.round(WEIGHT, slice(None))
    fitted = round_compensated(WEIGHT, GRAM, grid)
    np.testing.assert_array_equal(fitted, fitted.astype(ml_dtypes.float8_e4m3fn).astype(float))
    assert loss(fitted, grid) < 0.5 * loss(nearest, grid)


def test_data_that_never_change() -> None:
    """Rounding errors are what is left of their moments: the nearest integers, and no failure."""
    noise = RNG.standard_normal((32, 32)) * 1e-9
    grid = search_grid(WEIGHT, np.ones(32), 8, 8, symmetric=True)
    integers = round_compensated(WEIGHT, noise + noise.T, grid)
    assert np.abs(integers - grid.round(WEIGHT, slice(None))).max() <= 1


def test_searched_scales_beat_the_whole_range() -> None:
    weight = WEIGHT.copy()
    weight[3] *= 6  # an outlier that is multiplied by little
    energy = np.ones(32)
    energy[3] = 1e-4
    grid = search_grid(weight, energy, 8, 4, symmetric=True)
    parts = weight.reshape(4, 8, 6)
    largest = np.take_along_axis(parts, np.abs(parts).argmax(1, keepdims=True), 1)[:, 0]
    whole = Grid(8, -8, 7, largest / -8, np.zeros_like(largest))

    def error(grid: Grid) -> float:
        rounded = grid.round(weight, slice(None)) * grid.at(slice(None))[0]
        return float((energy[:, None] * (rounded - weight) ** 2).sum())

    assert error(grid) < 0.7 * error(whole)


def test_weights_of_zero_and_data_of_zero() -> None:
    grid = search_grid(np.zeros((8, 2)), np.zeros(8), 8, 4, symmetric=False)
    integers = round_compensated(np.zeros((8, 2)), np.zeros((8, 8)), grid)
    np.testing.assert_array_equal(integers, np.zeros((8, 2)))
