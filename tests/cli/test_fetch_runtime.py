"""relaxc fetch-runtime."""

from __future__ import annotations

import importlib.metadata
import zipfile
from pathlib import Path

import pytest
from commands import Run

ARCH = "aarch64"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    version = importlib.metadata.version("apache-tvm")
    path = tmp_path / f"apache_tvm-{version}-py3-none-manylinux_2_28_{ARCH}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tvm/lib/libtvm_runtime.so", "")
    return path


def test_it_says_what_is_where(relaxc: Run, wheel: Path) -> None:
    done = relaxc("fetch-runtime", ARCH, "--wheel", wheel)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"libtvm_runtime.so for {ARCH} in {wheel.parent / 'cache'}")


def test_json(relaxc: Run, wheel: Path) -> None:
    fields = relaxc("fetch-runtime", ARCH, "--wheel", wheel, "--json").json
    assert fields["architecture"] == ARCH
    assert fields["libraries"] == ["libtvm_runtime.so"]
    assert Path(fields["folder"]).is_dir()


def test_an_unknown_architecture(relaxc: Run) -> None:
    done = relaxc("fetch-runtime", "z80")
    assert done.code == 2
    assert "unknown architecture `z80`" in done.err
