"""Running commands inside of the test's process, which is faster than starting new ones."""

from __future__ import annotations

import pytest
from commands import Outcome, Run

from relaxc.cli import main


@pytest.fixture
def relaxc(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*args: object) -> Outcome:
        code = main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run
