"""Native crashes end as one line, leave nothing, and say what was being done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CRASH = """
import os, signal, sys, tempfile
from relaxc.cli import main
import relaxc.compiler
def build(*_args, **_options):
    tempfile.mkdtemp()
    os.kill(os.getpid(), int(os.environ["SIGNAL"]))
relaxc.compiler.build = build
sys.exit(main())
"""


def crashed(model: Path, output: Path, number: int) -> subprocess.CompletedProcess[str]:
    (output.parent / "tmp").mkdir()
    env = {**os.environ, "SIGNAL": str(int(number)), "TMPDIR": str(output.parent / "tmp")}
    command = [sys.executable, "-c", CRASH, "compile", str(model), "-o", str(output)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (
            signal.SIGSEGV,
            70,
            "error: relaxc crashed during code generation (segmentation fault), and has written "
            "nothing; this is a bug, please report it with the model\n",
        ),
        (
            signal.SIGKILL,
            69,
            "error: relaxc was killed during code generation, probably because memory ran out; "
            "free some, or use smaller shapes\n",
        ),
    ],
)
def test_a_crash_is_one_line(
    conv_onnx: Path, tmp_path: Path, number: int, code: int, message: str
) -> None:
    output = tmp_path / "a.rxc"
    output.write_bytes(b"what was there before")
    done = crashed(conv_onnx, output, number)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", message)
    assert output.read_bytes() == b"what was there before"
    assert list((tmp_path / "tmp").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"a.rxc", "tmp"}


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    script = "import sys, time; from relaxc.cli.contained import contained\n"
    script += "code = contained([])\n"
    script += "if code is None: print(__import__('os').getpid(), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child went on")
