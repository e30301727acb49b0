"""How the comparison with the peers is judged."""

from __future__ import annotations

import numpy as np
import pytest
from cpu import Row, configurations, table
from engines import OPENVINO, OPENVINO_BF16, ORT, OURS, OURS_BF16, Engine, difference
from suite import FAMILIES, MODELS, verdicts


def row(model: str = "unet", threads: int = 2, batch: int = 1, error: float = 1e-6) -> Row:
    times = {OURS: 6.0, OURS_BF16: 4.0, ORT: 10.0, OPENVINO: 12.0, OPENVINO_BF16: 5.0}
    return Row(model, threads, batch, times, times, error, 1e-2, 1e-2, 3.0, 1.0)


def test_the_better_peer_counts() -> None:
    assert row().ratio(row().min_ms) == pytest.approx(0.6)
    assert row().ratio_bf16(row().min_ms) == pytest.approx(0.8)
    assert row().ratio_bf16({OURS: 1.0}) is None


def test_every_model_belongs_to_one_family() -> None:
    assert len(MODELS) == len(set(MODELS)) == 15
    assert sum(len(family.models) for family in FAMILIES) == 15


def test_promises_are_kept_or_missed() -> None:
    found = {v.what: v for v in verdicts({"unet": 0.5, "resnet18": 0.8, "vit_base": 0.98})}
    assert str(found["worst, vit_base"]) == "worst, vit_base: 0.98 (bar 0.97) MISSED"
    assert found["3x3 convolutions"].value == pytest.approx((0.5 * 0.8) ** 0.5)
    assert str(found["3x3 convolutions"]).endswith("MISSED")
    assert "recurrent" not in found


def test_the_table_shows_what_differs() -> None:
    text = table([row(), row("resnet18", error=0.5)])
    assert "| 0.60 / 0.60 |" in text
    assert "| 0.80 / 0.80 | 50% | 1e-06, 1e-02, 1e-02 |" in text
    assert "**differs**" in text.splitlines()[-1]


def test_configurations_begin_with_the_usual_one() -> None:
    rows = [row(threads=1), row(), row(batch=8)]
    assert list(configurations(rows)) == [(2, 1), (1, 1), (2, 8)]


def test_the_difference_is_relative() -> None:
    ones = np.ones(4, np.float32)
    assert difference([ones, ones * 2], [ones, ones * 4]) == pytest.approx(0.5)


def test_an_engine_runs_at_least_once() -> None:
    engine = Engine("x", lambda feed: [])
    engine.measure({}, seconds=0)
    assert len(engine.times_ms) == 1
