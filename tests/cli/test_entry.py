"""Exit codes and the one line that explains them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Run

import relaxc as package
from relaxc.errors import PassError


def test_help_lists_every_command(relaxc: Run) -> None:
    done = relaxc("--help")
    assert done.code == 0
    for command in ("compile", "run", "bench", "check", "inspect"):
        assert f"\n  {command} " in done.out


@pytest.mark.parametrize("command", ["compile", "run", "bench", "check", "inspect"])
def test_every_command_explains_itself(relaxc: Run, command: str) -> None:
    done = relaxc(command, "--help")
    assert done.code == 0
    assert "--json" in done.out
    assert "--debug" in done.out


def test_the_version(relaxc: Run) -> None:
    assert relaxc("--version").out == f"relaxc, version {package.__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compil"], "error: no such command 'compil'"),
        (["compile"], "error: missing argument 'MODEL'; see `relaxc compile --help`"),
        (["compile", "x", "--targt", "y"], "error: no such option '--targt'"),
        (["compile", "x", "-O", "9"], "error: invalid value for '-O'"),
    ],
)
def test_usage_errors_are_one_line(relaxc: Run, args: list[str], message: str) -> None:
    done = relaxc(*args)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith(message)
    assert done.err.count("\n") == 1


def test_errors_of_ours_carry_their_exit_code(relaxc: Run, tmp_path: Path) -> None:
    done = relaxc("compile", tmp_path / "nosuch.onnx")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: model file `{tmp_path / 'nosuch.onnx'}` does not exist\n"


def test_bugs_are_one_line_and_a_hint(relaxc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_args: object) -> None:
        raise ZeroDivisionError("by zero\nsecond line")

    monkeypatch.setattr("relaxc.describe.describe", crash)
    done = relaxc("inspect", "x")
    assert done.code == 70
    assert done.err == (
        "error: unexpected ZeroDivisionError: by zero; this is a bug of relaxc, please report it; "
        "run again with --debug for the traceback\n"
    )


def test_a_machine_without_the_compiler(
    relaxc: Run, conv_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_args: object) -> None:
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    monkeypatch.setattr("relaxc.describe.describe", absent)
    done = relaxc("inspect", conv_onnx)
    assert done.code == 69
    assert done.err.startswith("error: this command needs the package `onnx`")


def test_debug_shows_the_traceback(relaxc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_args: object) -> None:
        raise PassError("pass `x` failed")

    monkeypatch.setattr("relaxc.describe.describe", crash)
    done = relaxc("inspect", "x", "--debug")
    assert done.code == 70
    assert "Traceback" in done.err
    assert done.err.endswith("error: pass `x` failed\n")


def test_an_interrupt_that_tvm_disguised_is_still_one(
    relaxc: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disguise(*_args: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise RuntimeError("KeyboardInterrupt") from None

    monkeypatch.setattr("relaxc.describe.describe", disguise)
    before = signal.getsignal(signal.SIGINT)
    done = relaxc("inspect", "x")
    assert (done.code, done.err) == (130, "")
    assert signal.getsignal(signal.SIGINT) is before


IN_EXEC = """
import sys, relaxc.describe
def describe(*_args):
    exec("import os, sys\\nos.kill(os.getpid(), int(sys.argv[1]))\\nfor _ in range(9**9): pass")
relaxc.describe.describe = describe
from relaxc.cli import main
sys.exit(main(["inspect", "x"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_inside_of_exec(tmp_path: Path, number: int, code: int) -> None:
    """As classes of data are made while something is imported."""
    (tmp_path / "in_exec.py").write_text(IN_EXEC)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "in_exec", str(int(number))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("delay", [0.9, 1.5])
def test_an_interrupted_compilation_leaves_nothing(
    mnist_onnx: Path, tmp_path: Path, number: int, code: int, delay: float
) -> None:
    output, scratch = tmp_path / "out", tmp_path / "tmp"
    output.mkdir()
    scratch.mkdir()
    command = [sys.executable, "-m", "relaxc", "compile", str(mnist_onnx), "-o"]
    process = subprocess.Popen(
        [*command, str(output / "m.rxc"), "--verify"],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(delay)
    process.send_signal(number)
    _out, err = process.communicate(timeout=60)
    # It may have ended by itself, or not have begun.
    assert process.returncode in (0, code, -number), err
    assert {path.name for path in output.iterdir()} <= {"m.rxc"}
    assert list(scratch.iterdir()) == []
    if process.returncode:
        assert "Traceback" not in err


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_output_that_finds_no_room(conv_artifact: Path, flags: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "relaxc", "inspect", str(conv_artifact), "--no-roofline"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, *flags], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 73
    assert done.stderr == "error: cannot write the output: No space left on device\n"


def test_a_broken_pipe_is_quiet(conv_artifact: Path) -> None:
    command = f"{sys.executable} -m relaxc inspect {conv_artifact} --no-roofline | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert done.returncode in (0, 141)
