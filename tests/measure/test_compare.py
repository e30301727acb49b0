"""How far two tensors lie apart."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from relaxc.errors import OptionError
from relaxc.measure.compare import Tolerance, compare

T = Tolerance()
A = np.array([1, 2, 3, 4], np.float32)


def test_equal_tensors() -> None:
    result = compare("y", A, A.copy(), T)
    assert (result.max_abs, result.max_rel, result.is_ok) == (0, 0, True)
    assert result.cosine == pytest.approx(1)


def test_errors_are_relative_to_the_largest_value() -> None:
    result = compare("y", A + np.float32(0.04), A, T)
    assert result.max_abs == pytest.approx(0.04, rel=1e-4)
    assert result.max_rel == pytest.approx(0.01, rel=1e-4)
    assert not result.is_ok
    assert compare("y", A + np.float32(0.04), A, Tolerance(rtol=0.02)).is_ok


def test_the_cosine_counts_too() -> None:
    a, b = np.array([1.0, 0.0]), np.array([0.99, 0.15])
    assert not compare("y", a, b, Tolerance(rtol=1, cos=0.999)).is_ok
    assert compare("y", a, b, Tolerance(rtol=1, cos=0.9)).is_ok


def test_integers_must_be_equal() -> None:
    a = np.array([1, 2, 3])
    assert compare("y", a, a, T).is_ok
    assert not compare("y", a + [0, 0, 1], a, Tolerance(rtol=10)).is_ok


def test_nan_and_infinity_agree_with_themselves_only() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert compare("y", odd, odd, T).is_ok
    result = compare("y", np.array([0.0, np.inf, -np.inf, 1.0]), odd, T)
    assert result.max_abs == np.inf
    assert not result.is_ok
    assert not compare("y", -odd, odd, T).is_ok


def test_other_shapes_and_dtypes_never_agree() -> None:
    assert compare("y", A[:2], A, T).note == "got float32[2]"
    assert not compare("y", A.astype(np.float64), A, T).is_ok


def test_empty_and_zero_tensors() -> None:
    assert compare("y", A[:0], A[:0], T).is_ok
    assert compare("y", A * 0, A * 0, T).is_ok


def test_narrow_floats() -> None:
    narrow = A.astype(ml_dtypes.bfloat16)
    assert compare("y", narrow, narrow, T).is_ok


@given(hnp.arrays(np.float32, hnp.array_shapes(max_side=4), elements=st.floats(width=32)))
def test_anything_agrees_with_itself(array: np.ndarray) -> None:
    assert compare("y", array, array.copy(), T).is_ok


@pytest.mark.parametrize(
    "wrong", [{"atol": -1.0}, {"atol": math.inf}, {"rtol": math.nan}, {"cos": 2.0}]
)
def test_tolerances_are_validated(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="must"):
        Tolerance(**wrong)
