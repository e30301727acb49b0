"""The whole command is killed at random points, and goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
from builders import conv_model

from relaxc.targets.tuning.history import History, is_record
from relaxc.targets.tuning.records import RecordStore, canonical, damaged_lines

TRIALS, KILLS = 40, 12


def command(model: Path, records: Path) -> list[str]:
    tune = [sys.executable, "-m", "relaxc", "tune", str(model), "--json"]
    return [*tune, "--trials", str(TRIALS), "--tuning-records", str(records)]


def committed(records: Path) -> list[str]:
    return [canonical(record) for record in RecordStore(records).read().records]


def descendants(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    found = [int(child) for child in text.split()]
    return [*found, *(d for child in found for d in descendants(child))]


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.long
def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    model, records = tmp_path / "m.onnx", tmp_path / "r.jsonl"
    onnx.save(conv_model(), model)
    rng = random.Random(0)
    known: list[str] = []
    longest = 0.0
    for number in range(KILLS):
        child = subprocess.Popen(
            command(model, records), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        begin = time.monotonic()
        # The first runs find out how long it takes until the search begins.
        if number < 2:
            while child.poll() is None and len(committed(records)) <= len(known):
                time.sleep(0.05)
            longest = max(longest, time.monotonic() - begin)
        else:
            time.sleep(rng.uniform(0.5, 1.5) * longest)
        workers = descendants(child.pid)
        # The process that does the work, so that nothing can be cleaned up; and who waits for it.
        for victim in (*workers[:1], child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        child.wait()
        found = committed(records) if records.exists() else []
        assert set(known) <= set(found), "a record that was there is gone"
        data = records.read_bytes() if records.exists() else b""
        assert len(damaged_lines(data, is_record)) <= number + 1
        known = found
        end = time.monotonic() + 30  # workers die with their parent
        while any(is_alive(worker) for worker in workers):
            assert time.monotonic() < end, "a worker outlived the command"
            time.sleep(0.1)

    done = subprocess.run(command(model, records), capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    assert (result["stopped"], result["known_trials"]) == ("trials", TRIALS)
    history = History(RecordStore(records).read().records)
    (task,) = [t for t in history.tasks.values() if t.kernel == "conv2d"]
    trials = history.trials(task)
    assert len(trials) == TRIALS
    assert max(Counter(canonical(t["choice"]) for t in trials).values()) == 1
    assert result["trials"] == TRIALS - len([r for r in known if '"trial"' in r])
    assert sum(t["spent"] for t in trials) == pytest.approx(result["spent_s"])
    again = subprocess.run(command(model, records), capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["trials"] == 0
