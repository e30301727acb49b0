"""TVM's runtime for other architectures."""

from __future__ import annotations

import importlib.metadata
import subprocess
import zipfile
from pathlib import Path

import pytest
from builders import conv_model

import relaxc
from relaxc import cpu
from relaxc.errors import OptionError, TargetError
from relaxc.targets.llvm.tvm_runtime import fetch_runtime, require_runtime

VERSION = importlib.metadata.version("apache-tvm")
OTHER = "x86_64" if cpu.architecture() == "aarch64" else "aarch64"
LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / f"apache_tvm-{VERSION}-py3-none-manylinux_2_28_{OTHER}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*LIBRARIES, "libtvm_compiler.so"):
            archive.writestr(f"tvm/lib/{name}", name)
    return path


def test_this_machines_is_installed() -> None:
    assert (require_runtime(cpu.architecture()) / "libtvm_runtime.so").is_file()


def test_another_is_kept_once_fetched(wheel: Path) -> None:
    folder = fetch_runtime(OTHER, wheel)
    assert sorted(path.name for path in folder.iterdir()) == sorted(LIBRARIES)
    assert (folder / LIBRARIES[0]).read_text() == LIBRARIES[0]
    assert require_runtime(OTHER) == folder


def test_pip_gets_the_wheel_of_the_same_version(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        assert command[-1] == f"apache-tvm=={VERSION}"
        assert f"--platform=manylinux_2_28_{OTHER}" in command
        folder = next(c for c in command if c.startswith("--dest=")).removeprefix("--dest=")
        Path(folder, wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    assert fetch_runtime(OTHER) == require_runtime(OTHER)


def test_pip_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: failed)
    with pytest.raises(TargetError, match=r"cannot download .*: ERROR: no network; .* --wheel"):
        fetch_runtime(OTHER)


def test_compiling_without_it_names_the_command(tmp_path: Path) -> None:
    options = relaxc.CompileOptions(target=f"llvm -mtriple={OTHER}-linux-gnu")
    with pytest.raises(TargetError, match=rf"no C\+\+|run `relaxc fetch-runtime {OTHER}`"):
        relaxc.compile(conv_model(), tmp_path / "a.rxc", options)


def test_unknown_architecture() -> None:
    with pytest.raises(OptionError, match="unknown architecture `z80`; known are .*`aarch64`"):
        fetch_runtime("z80")


def test_a_wheel_of_another_version(wheel: Path) -> None:
    other = wheel.rename(wheel.with_name(f"apache_tvm-0.1-py3-none-manylinux_2_28_{OTHER}.whl"))
    with pytest.raises(OptionError, match="is not the wheel of apache-tvm"):
        fetch_runtime(OTHER, other)


def test_a_wheel_without_the_library(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tvm/__init__.py", "")
    with pytest.raises(OptionError, match=r"holds no `tvm/lib/libtvm_runtime\.so`"):
        fetch_runtime(OTHER, wheel)


def test_a_damaged_wheel(wheel: Path) -> None:
    wheel.write_bytes(b"PK no zip")
    with pytest.raises(OptionError, match="is damaged"):
        fetch_runtime(OTHER, wheel)


def test_no_such_wheel(wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        fetch_runtime(OTHER, wheel)
