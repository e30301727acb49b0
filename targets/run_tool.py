"""Run a compiler or linker so that nothing of it outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


def run_tool(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `command` in `folder`, and keep what it prints.

    Compilers are drivers of other programs, and leave temporary files when they are killed: those
    go into `folder`, which the caller deletes, and an interruption ends the whole process group.
    """
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
