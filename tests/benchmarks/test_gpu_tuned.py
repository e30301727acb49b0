"""The table of what tuning gains on GPUs: counts come from the results, times from the device."""

from __future__ import annotations

import json
from pathlib import Path

from gpu_tuned import searched, table


def test_the_table_counts_what_was_measured(tmp_path: Path) -> None:
    lines = [
        {"kind": "begin", "device": "a card"},
        {"kind": "untuned", "spent": 1.5},
        {"kind": "trial", "spent": 2.25},
        {"kind": "trial", "spent": 0.25},
        {"kind": "final", "spent": 4.0},
        {"kind": "done"},
    ]
    for name in ("first", "second"):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = searched([tmp_path / "first", tmp_path / "second"])
    assert found == {"candidates": 4, "seconds": 16.0}
    times = {"untuned": [0.4, 0.5], "tuned": [0.2, 0.4]}
    rows = [{"name": "net", "apart": 1e-4, "ms": times, **found}]
    heading, _, row = table(rows, "a card").splitlines()
    assert row == "| net | 0.500 | 0.400 | 0.80 | 0.50 | 1.0e-04 | 4 | 16 |"
    assert heading.count("|") == row.count("|")
