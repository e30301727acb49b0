"""A search's memory survives everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relaxc.errors import OptionError, OutputError
from relaxc.options import QuantizeOptions
from relaxc.search.journal import Trial, open_journal
from relaxc.search.recipe import Recipe

SUBJECT = {"model": "ab", "seed": 0}
TRIALS = [
    Trial(0, Recipe(), 0.9, 2.0, 1.0, 1000, 3.5),
    Trial(1, Recipe(quantize=QuantizeOptions(exclude=("é",))), 0.8, 1.0, 0.5, 500, 2.5),
    Trial(2, Recipe(precision="bfloat16"), error="no bfloat16 here"),
]


def written(folder: Path) -> Path:
    with open_journal(folder, SUBJECT, resume=False) as journal:
        for trial in TRIALS:
            journal.add(trial)
    return folder / "journal.jsonl"


def test_trials_come_back(tmp_path: Path) -> None:
    written(tmp_path)
    with open_journal(tmp_path, SUBJECT, resume=True) as journal:
        assert journal.trials == TRIALS
    with open_journal(tmp_path, SUBJECT, resume=False) as journal:
        assert journal.trials == []


def test_a_file_cut_off_at_any_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(tmp_path).read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: None)  # two thousand of them take a disk a while
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(ends[0], len(whole)):
        (tmp_path / "journal.jsonl").write_bytes(whole[:length])
        complete = sum(end - 1 <= length for end in ends) - 1
        with open_journal(tmp_path, SUBJECT, resume=True) as journal:
            assert journal.trials == TRIALS[:complete]
            journal.add(TRIALS[2])
        with open_journal(tmp_path, SUBJECT, resume=True) as journal:
            assert journal.trials == [*TRIALS[:complete], TRIALS[2]]


def test_another_search(tmp_path: Path) -> None:
    written(tmp_path)
    with (
        pytest.raises(OptionError, match=r"was another one \(`seed` changed\)"),
        open_journal(tmp_path, {**SUBJECT, "seed": 1}, resume=True),
    ):
        pass


def test_one_search_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from relaxc.search.journal import open_journal; "
        f"open_journal(Path({str(tmp_path)!r}), {{}}, False).__enter__()"
    )
    with open_journal(tmp_path, SUBJECT, resume=False):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert "another search is running in" in done.stderr


def test_no_folder_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot write `.*file/search`"),
        open_journal(tmp_path / "file" / "search", SUBJECT, resume=False),
    ):
        pass


def test_old_artifacts_go_with_their_trials(tmp_path: Path) -> None:
    with open_journal(tmp_path, SUBJECT, resume=False) as journal:
        journal.artifact(TRIALS[1]).touch()
    with open_journal(tmp_path, SUBJECT, resume=True) as journal:
        assert journal.artifact(TRIALS[1]).exists()
    with open_journal(tmp_path, SUBJECT, resume=False) as journal:
        assert not journal.artifact(TRIALS[1]).exists()


def test_errors_of_other_kinds_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_journal(tmp_path, SUBJECT, resume=False):
        raise ZeroDivisionError
