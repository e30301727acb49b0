"""Evaluating the expressions of manifests."""

from __future__ import annotations

import pytest

from relaxc.measure.expressions import evaluate

SYMBOLS = {"n": 3, "sequence": 10}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (5, 5),
        ("n", 3),
        ("((n * sequence) * 2)", 60),
        ("(((n + 3) // 4) - (sequence % 4))", -1),
        ("max(min(n, 2), 1)", 2),
    ],
)
def test_values(expression: int | str, value: int) -> None:
    assert evaluate(expression, SYMBOLS) == value


@pytest.mark.parametrize(
    "expression",
    [
        None,
        "m",
        "n *",
        "n / 2",
        "1 // 0",
        "n.__class__",
        "__import__('os')",
        "min(1)",
        "-n",
        "'text'",
        "1.5",
        "(" * 5000 + "n" + ")" * 5000,
    ],
)
def test_anything_else_has_none(expression: str | None) -> None:
    assert evaluate(expression, SYMBOLS) is None
