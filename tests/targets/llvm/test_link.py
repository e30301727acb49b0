"""Finding a compiler, and saying so when there is none."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import relu_model

import relaxc
from relaxc import cpu
from relaxc.errors import OutputError, TargetError
from relaxc.targets.llvm import link
from relaxc.targets.llvm.link import compiler_command, link_shared

HERE = f"{cpu.architecture()}-linux-gnu"


@pytest.fixture
def no_system_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)


@pytest.mark.usefixtures("no_system_compiler")
def test_zig_serves_where_there_is_no_compiler() -> None:
    pytest.importorskip("ziglang")
    assert compiler_command(HERE)[:3] == [sys.executable, "-m", "ziglang"]


@pytest.mark.usefixtures("no_system_compiler")
def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(TargetError, match=r"no C\+\+ compiler .* `pip install ziglang`"):
        relaxc.compile(relu_model(), tmp_path / "a.rxc")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "a.c:1: fatal error: error writing to a.s: No space left on device\n 1 | }\n | ^\n"
    failed = subprocess.CompletedProcess("", 1, "", said)
    monkeypatch.setattr(link, "run_tool", lambda *_args: failed)
    folder = tmp_path / "scratch"
    with pytest.raises(OutputError, match=r"cannot link in `.*`: no space left .* set TMPDIR to"):
        link_shared(folder / "a.so", [folder / "a.c"], HERE)


def test_a_failing_compiler_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("this is no C")
    with pytest.raises(TargetError, match="linking with `.*` failed: .*error"):
        link_shared(tmp_path / "a.so", [tmp_path / "a.c"], HERE)


@pytest.mark.long
@pytest.mark.usefixtures("no_system_compiler")
def test_a_model_is_compiled_with_zig_alone(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    relaxc.compile(relu_model(), tmp_path / "a.rxc")
    assert relaxc.load(tmp_path / "a.rxc")([[1.0, -1.0, 2.0]]).tolist() == [[1.0, 0.0, 2.0]]
