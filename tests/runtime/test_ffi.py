"""TVM's C ABI through ctypes."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm_ffi

from relaxc.errors import TargetError
from relaxc.runtime import ffi


def test_the_abi_is_that_of_the_package() -> None:
    major, minor, _patch = ffi.version()
    assert tvm_ffi.__version__.startswith(f"{major}.{minor}.")


def test_unknown_functions_are_none() -> None:
    assert ffi.global_function("no.such.function") is None


def test_errors_carry_kind_and_message(tmp_path: Path) -> None:
    (tmp_path / "junk.so").write_text("junk")
    with pytest.raises(ffi.FfiError, match=r"\w+: .*junk.so"):
        ffi.load_module(tmp_path / "junk.so")


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    ffi.library.cache_clear()
    with pytest.raises(TargetError, match="`apache-tvm-ffi` is missing; run `pip install relaxc`"):
        ffi.library()
