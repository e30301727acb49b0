"""Expressions of symbolic dimensions as text."""

from __future__ import annotations

from tvm import tirx

from relaxc.passes.analysis.expression import as_text

N, S = tirx.Var("n", "int64"), tirx.Var("s", "int64")


def test_numbers_stay_numbers() -> None:
    assert as_text(7) == 7
    assert as_text(tirx.IntImm("int64", 7)) == 7
    assert as_text(N * 0 + 3) == 3


def test_arithmetic() -> None:
    assert as_text(N * 2 * S) == "((n * s) * 2)"
    assert as_text((N + 3) // 4 - S % 2) == "(((n + 3) // 4) - (s % 2))"
    assert as_text(tirx.min(N, S)) == "min(n, s)"


def test_other_operators_have_no_text() -> None:
    assert as_text(tirx.Select(N > 2, N, S)) is None
    assert as_text(N * tirx.Select(N > 2, N, S)) is None
