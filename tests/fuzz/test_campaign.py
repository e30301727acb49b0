"""Random graphs and mutants: no crash, no hang, no internal error, no wrong number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from fuzz.campaign import run
from fuzz.cases import random_case
from fuzz.judge import difference
from fuzz.mutants import random_mutant

_FAILURES = {"wrong", "unclean", "crashed", "hung"}


def test_a_seed_is_a_case() -> None:
    assert random_case(3)[0] == random_case(3)[0]
    assert random_mutant(3)[0] == random_mutant(3)[0]


def test_graphs_are_valid() -> None:
    for seed in range(20):
        onnx.checker.check_model(random_case(seed)[0])


def test_differences_are_seen() -> None:
    ones = np.ones(3, np.float32)
    assert not difference(ones, ones)
    assert "2 of 3" in difference(ones, np.array([1, 2, np.nan], np.float32))
    assert "not float32(2,)" in difference(ones, ones[:2])


@pytest.mark.long
@pytest.mark.parametrize(("kind", "count"), [("graph", 150), ("mutant", 300)])
def test_campaign_runs_clean(kind: str, count: int) -> None:
    results = list(run((kind, seed) for seed in range(count)))
    assert not [r for r in results if r["status"] in _FAILURES]
    assert Counter(r["status"] for r in results)["passed"] > count / 10
