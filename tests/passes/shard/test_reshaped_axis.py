"""Blocks of an axis, found again after a reshape."""

from __future__ import annotations

import numpy as np
import pytest

from relaxc.passes.shard.reshaped_axis import reshaped_axis

CASES: list[tuple[list[int], list[int], int, int | None]] = [
    ([1, 4, 64], [1, 4, 4, 16], 2, 2),
    ([1, 4, 4, 16], [1, 4, 64], 2, 2),
    ([1, 4, 4, 16], [1, 4, 64], 3, None),
    ([1, 2, 4, 16], [2, 4, 16], 1, 0),
    ([3, 2, 4, 16], [6, 4, 16], 1, None),
    ([1, 8, 12], [1, 8, 1, 12], 2, 3),
    ([1, 2, 3, 8, 16], [1, 6, 8, 16], 1, 1),
    ([8, 64], [1, 8, 4, 16], 1, 2),
    ([1, 1, 64], [1, 1, 4, 16], 2, 2),
    ([2, 6], [4, 3], 1, None),
    ([6], [6], 0, 0),
]


@pytest.mark.parametrize(("old", "new", "axis", "expected"), CASES)
def test_axes(old: list[int], new: list[int], axis: int, expected: int | None) -> None:
    assert reshaped_axis(old, new, axis) == expected


@pytest.mark.parametrize(("old", "new", "axis", "expected"), CASES)
def test_parts_are_parts(old: list[int], new: list[int], axis: int, expected: int | None) -> None:
    if expected is None or old[axis] % 2 or new[expected] % 2:
        return
    x = np.arange(np.prod(old)).reshape(old)
    shape = list(new)
    shape[expected] //= 2
    for before, after in zip(
        np.split(x, 2, axis), np.split(x.reshape(new), 2, expected), strict=True
    ):
        np.testing.assert_array_equal(before.reshape(shape), after)
