"""Parts of TVM's runtime for artifacts to carry: this machine's are installed, others are fetched.

A wheel of TVM holds the libraries of one architecture. Those of another come out of the wheel of
the same version for that architecture, once, and only when the user asks for it
(`relaxc fetch-runtime`): compiling never uses the network.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import tvm

from relaxc import cpu
from relaxc.cache import default_cache_dir
from relaxc.errors import OptionError, OutputError, TargetError
from relaxc.replacing import replacing

_PREFIX = "tvm/lib/libtvm_runtime"


def require_runtime(arch: str) -> Path:
    """The folder of the runtime's libraries for an architecture.

    Raises:
        TargetError: there is none here.
    """
    if arch == cpu.architecture():
        return Path(tvm.__file__).parent / "lib"
    folder = _folder(arch)
    if not (folder / "libtvm_runtime.so").is_file():
        raise TargetError(
            f"no runtime of TVM {_version()} for {arch} is on this machine, and artifacts carry "
            f"one; run `relaxc fetch-runtime {arch}`"
        )
    return folder


def fetch_runtime(arch: str, wheel: Path | None = None) -> Path:
    """Take the runtime for another architecture out of TVM's wheel for it.

    Args:
        arch: as in a target triple, `aarch64`.
        wheel: the wheel, where it is here already; else pip downloads it from its package index.

    Returns:
        The folder that holds the libraries now.

    Raises:
        OptionError: unknown architecture, or the wheel is of another version or architecture.
        TargetError: the wheel cannot be downloaded.
        OutputError: the cache folder cannot be written.
    """
    if arch not in cpu.ARCHITECTURES:
        known = ", ".join(f"`{a}`" for a in cpu.ARCHITECTURES)
        raise OptionError(f"unknown architecture `{arch}`; known are {known}")
    with tempfile.TemporaryDirectory(prefix="relaxc-") as temporary:
        return _unpack(wheel or _download(arch, Path(temporary)), arch, _folder(arch))


def _version() -> str:
    return importlib.metadata.version("apache-tvm")


def _folder(arch: str) -> Path:
    return default_cache_dir() / f"tvm-{_version()}-{arch}"


def _download(arch: str, folder: Path) -> Path:
    requirement = f"apache-tvm=={_version()}"
    platforms = [f"--platform=manylinux_2_{minor}_{arch}" for minor in (28, 27, 17)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", *platforms, f"--dest={folder}", requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        words = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["pip said nothing"]
        raise TargetError(
            f"pip cannot download `{requirement}` for {arch}: {words[0]}; "
            f"download its wheel elsewhere, and run `relaxc fetch-runtime {arch} --wheel FILE`"
        )
    return wheels[0]


def _unpack(wheel: Path, arch: str, folder: Path) -> Path:
    """The wheel's name tells version and platform: apache_tvm-VERSION-py3-none-PLATFORM.whl."""
    if not wheel.name.startswith(f"apache_tvm-{_version()}-") or arch not in wheel.name:
        raise OptionError(
            f"`{wheel}` is not the wheel of apache-tvm {_version()} for {arch}, going by its name"
        )
    try:
        with _opened(wheel) as archive:
            members = [n for n in archive.namelist() if n.startswith(_PREFIX)]
            if f"{_PREFIX}.so" not in members:
                raise OptionError(f"wheel `{wheel}` holds no `{_PREFIX}.so`")
            folder.mkdir(parents=True, exist_ok=True)
            # The library that everything needs comes last: with it the folder is complete.
            for name in sorted(members, key=lambda n: n == f"{_PREFIX}.so"):
                with replacing(folder / Path(name).name) as file:
                    file.write(archive.read(name))
    except OSError as err:
        raise OutputError(f"cannot write the runtime to `{folder}`: {err.strerror}") from err
    return folder


def _opened(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as err:
        raise OptionError(f"wheel `{wheel}` is damaged: {err}") from err
    except OSError as err:
        raise OptionError(f"wheel `{wheel}` cannot be read: {err.strerror}") from err
