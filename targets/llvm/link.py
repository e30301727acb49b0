"""Turn object files into a shared library, with whatever C++ compiler there is.

The system's compiler comes first; for other hosts, and where there is none, the `ziglang` wheel
links (it carries clang and the C libraries of many platforms).
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from relaxc import cpu
from relaxc.errors import OutputError, TargetError
from relaxc.targets.run_tool import run_tool


def compiler_command(triple: str) -> list[str]:
    """The command that compiles and links C for `triple`.

    Raises:
        TargetError: there is none on this machine.
    """
    arch = triple.partition("-")[0]
    if arch == cpu.architecture():
        for name in ("c++", "g++", "clang++", "cc", "gcc", "clang"):
            path = shutil.which(name)
            if path:
                return [path]
    cross = shutil.which(f"{arch}-linux-gnu-g++") or shutil.which(f"{arch}-linux-gnu-gcc")
    if cross:
        return [cross]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-gnu"]
    raise TargetError(
        f"no C++ compiler found that links for `{triple}`; "
        "install g++ or clang, or run `pip install ziglang`"
    )


def link_shared(
    output: Path, sources: Sequence[Path], triple: str, flags: Sequence[str] = ()
) -> None:
    """Link object files (or compile C sources) into the shared library `output`.

    Raises:
        TargetError: no compiler, or it failed; its words are in the message.
        OutputError: the disk is full.
    """
    command = [
        *compiler_command(triple),
        "-shared",
        "-fPIC",
        "-s",
        *flags,
        "-o",
        output.name,
        *(source.name for source in sources),
    ]
    # Relative names in one folder: no path of this machine gets into the library.
    done = run_tool(command, output.parent)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        if os.strerror(errno.ENOSPC) in said:
            raise OutputError(
                f"cannot link in `{output.parent.parent}`: no space left on the device; "
                "set TMPDIR to a folder that has some"
            )
        lines = said.splitlines()
        words = [line for line in lines if "error" in line.lower()][:3] or lines[-3:]
        raise TargetError(f"linking with `{command[0]}` failed: {' / '.join(words)}")
