"""What this machine's CPU can do."""

from __future__ import annotations

import os
import platform

import pytest

from relaxc import cpu


def test_this_machine() -> None:
    assert cpu.architecture() == {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine()
    )
    assert 1 <= cpu.available_cores() <= (os.cpu_count() or 1)
    assert cpu.model_name()


def test_features_are_named_as_llvm_names_them() -> None:
    assert cpu.features() <= cpu.checkable_features(cpu.architecture())
    assert cpu.checkable_features("sparc") == frozenset()


@pytest.mark.skipif(cpu.architecture() != "x86_64", reason="checks x86 names")
def test_every_checkable_feature_is_known_to_llvm() -> None:
    import tvm

    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver5"})
    names = {str(f) for f in tvm.target.codegen.llvm_get_cpu_features(target)}
    assert {"avx2", "fma", "sse4.2", "avx512vnni"} <= names & cpu.checkable_features("x86_64")


def test_hyper_threads_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    monkeypatch.setattr(cpu, "_siblings", lambda number: f"{number % 2}")
    assert cpu.available_cores() == 2
