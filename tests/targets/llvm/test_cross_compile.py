"""Artifacts for other machines."""

from __future__ import annotations

import importlib.metadata
import struct
import zipfile
from pathlib import Path

import pytest
from builders import conv_model

import relaxc
from relaxc.artifact import read_artifact
from relaxc.errors import TargetError
from relaxc.targets.llvm.tvm_runtime import fetch_runtime

pytest.importorskip("ziglang")
pytestmark = pytest.mark.long
AARCH64 = "llvm -mtriple=aarch64-linux-gnu -mcpu=neoverse-n1"
ELF_AARCH64 = 183


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cross")
    version = importlib.metadata.version("apache-tvm")
    wheel = folder / f"apache_tvm-{version}-py3-none-manylinux_2_28_aarch64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tvm/lib/libtvm_runtime.so", "the runtime for ARM")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        fetch_runtime("aarch64", wheel)
        relaxc.compile(conv_model(), folder / "arm.rxc", relaxc.CompileOptions(target=AARCH64))
    return folder / "arm.rxc"


def test_the_code_is_for_the_other_machine(artifact: Path) -> None:
    opened = read_artifact(artifact)
    for name in ("lib/model.so", "lib/threadpool.so", "lib/profiler.so"):
        header = bytes(opened.member(name)[:20])
        assert header[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", header, 18)[0] == ELF_AARCH64


def test_the_manifest_says_what_it_needs(artifact: Path) -> None:
    needs = read_artifact(artifact).manifest["requirements"]
    assert needs["architecture"] == "aarch64"
    assert "dotprod" in needs["cpu_features"]


def test_it_carries_the_runtime_of_the_other_machine(artifact: Path) -> None:
    opened = read_artifact(artifact)
    assert opened.manifest["requirements"]["runtime"] == ["libtvm_runtime.so"]
    assert bytes(opened.member("lib/libtvm_runtime.so")) == b"the runtime for ARM"


def test_this_machine_refuses_it(artifact: Path) -> None:
    with pytest.raises(TargetError, match="is built for aarch64, this machine is"):
        relaxc.load(artifact)
