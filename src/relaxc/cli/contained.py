"""Run a command in a child process, so that a crash of native code ends as one line.

TVM, LLVM and ONNX are native code: what goes wrong there may end the process, without an exception.
The child is forked before anything is imported, which takes a millisecond. It notes what it is
doing in memory that both share, for the parent to tell. Files are written whole or not at all
(`replacing.py`), and what the child has left in its folder for temporary files is removed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
from pathlib import Path

_BUG, _MACHINE = 70, 69
_WATCHED = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What the kernel sends, such as Ctrl-C, the child gets as well.
_FROM_KERNEL = 0x80
_NOTE_BYTES = 512
_PR_SET_PDEATHSIG = 1
_note: mmap.mmap | None = None


def note(what: str) -> None:
    """Remember what is being done now, in case that it crashes."""
    if _note is not None:
        data = what.encode()[: _NOTE_BYTES - 1]
        _note[: len(data) + 1] = data + b"\0"


def contained(args: list[str]) -> int | None:
    """Fork; return None in the child, which goes on, and in the parent the child's exit code."""
    global _note
    if not hasattr(signal, "sigwaitinfo"):
        return None
    _note = mmap.mmap(-1, _NOTE_BYTES)
    scratch = _scratch()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        if scratch:
            os.environ["TMPDIR"] = str(scratch)
        _die_with(parent, keeps_core="--debug" in args)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    try:
        status = _wait(child)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if scratch:
            _remove(scratch)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else _explain(os.WTERMSIG(status))


def _wait(child: int) -> int:
    """The child's status; signals to the parent are handed on."""
    while True:
        info = signal.sigwaitinfo(_WATCHED)
        if info.si_signo == signal.SIGCHLD:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status
        elif info.si_code != _FROM_KERNEL:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, info.si_signo)


def _explain(number: int) -> int:
    """Say what a signal means that ended the child, and return the exit code."""
    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        return 128 + number
    assert _note is not None
    doing = _note[:].partition(b"\0")[0].decode(errors="replace")
    during = f" during {doing}" if doing else ""
    if number == signal.SIGKILL:
        print(
            f"error: relaxc was killed{during}, probably because memory ran out; free some, or use "
            "smaller shapes",
            file=sys.stderr,
        )
        return _MACHINE
    what = signal.strsignal(number) or f"signal {number}"
    print(
        f"error: relaxc crashed{during} ({what.lower()}), and has written nothing; this is a bug, "
        "please report it with the model",
        file=sys.stderr,
    )
    return _BUG


def _scratch() -> Path | None:
    """A folder for temporary files of this process."""
    path = Path(os.environ.get("TMPDIR") or "/tmp", f"relaxc-{os.getpid()}")
    try:
        path.mkdir(0o700)
    except OSError:
        return None
    return path


def _remove(scratch: Path) -> None:
    try:
        scratch.rmdir()
    except OSError:  # not empty
        import shutil

        shutil.rmtree(scratch, ignore_errors=True)


def _die_with(parent: int, keeps_core: bool) -> None:
    """End when the parent ends, however that happens, and leave no core file."""
    import ctypes
    import resource

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGTERM)
    if not keeps_core:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
