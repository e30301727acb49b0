"""Numbers as people read them."""

from __future__ import annotations

import pytest

from relaxc.report import units


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (3_520_000, "3.52 MB"), (2.5e12, "2.50 TB")],
)
def test_sizes(value: float, text: str) -> None:
    assert units.size(value) == text


@pytest.mark.parametrize(("value", "text"), [(10, "10"), (5994, "5.99 k"), (786_560, "786.6 k")])
def test_counts(value: float, text: str) -> None:
    assert units.count(value) == text


def test_tensors() -> None:
    entry = {"name": "x", "dtype": "float32", "shape": ["n", 3]}
    assert units.tensor(entry) == "x: float32[n, 3]"
