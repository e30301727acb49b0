"""Compilers end with us, and leave nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from relaxc.targets.run_tool import run_tool

# A driver as compilers are: the program that it starts does the work, and outlives it when killed.
DRIVER = "echo $$ > pid; sleep 60 & echo $! >> pid; wait"


def test_what_it_says_and_where_it_works(tmp_path: Path) -> None:
    done = run_tool(["sh", "-c", "pwd; echo $TMPDIR; echo oh >&2; exit 3"], tmp_path)
    assert (done.returncode, done.stderr) == (3, "oh\n")
    assert done.stdout.split() == [str(tmp_path), str(tmp_path)]


def test_an_interruption_ends_all_of_it(tmp_path: Path) -> None:
    code = (  # a job in the background of a shell starts with SIGINT ignored, and hands that on
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from pathlib import Path; from relaxc.targets.run_tool import run_tool; "
        f"run_tool(['sh', '-c', {DRIVER!r}], Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pids = tmp_path / "pid"
    while process.poll() is None and (not pids.exists() or len(pids.read_text().split()) < 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    for pid in pids.read_text().split():
        assert is_gone(pid)


def is_gone(pid: str) -> bool:
    """Whether a process has ended; what is killed takes a moment to go."""
    status = Path("/proc", pid, "status")
    for _ in range(500):
        try:
            if "State:\tZ" in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_temporary_files_are_its_folders(tmp_path: Path) -> None:
    code = "import tempfile; print(tempfile.gettempdir())"
    done = run_tool([sys.executable, "-c", code], tmp_path)
    assert done.stdout.strip() == str(tmp_path) != tempfile.gettempdir()
