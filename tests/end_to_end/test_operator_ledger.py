"""docs/operators.md is in date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_ledger_of_operators_is_in_date() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "operators.py")]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert written == (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
