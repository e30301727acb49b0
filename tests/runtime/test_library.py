"""The content-addressed cache of libraries, and artifacts for other machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import relaxc
from relaxc.artifact import Artifact, read_artifact, write_artifact
from relaxc.errors import ArtifactError, OutputError, TargetError
from relaxc.runtime.library import require_this_machine

X = np.array([[1, -2, 3]], np.float32)


def rewritten(
    source: Path, target: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]
) -> Path:
    """An artifact with another manifest or other members, and hashes that fit."""
    opened = read_artifact(source)
    manifest = dict(opened.manifest)
    names = list(manifest.pop("members"))
    members: dict[str, Any] = {name: [bytes(opened.member(name))] for name in names}
    change(manifest, members)
    write_artifact(target, manifest, members)
    return target


def test_libraries_are_extracted_under_their_hash(relu_artifact: Path, tmp_path: Path) -> None:
    relaxc.load(relu_artifact, cache_dir=tmp_path)
    digest = read_artifact(relu_artifact).manifest["members"]["lib/model.so"]["sha256"]
    assert (tmp_path / "lib" / f"{digest}.so").is_file()
    assert all(path.parent == tmp_path / "lib" for path in tmp_path.rglob("*.so"))


def test_a_damaged_cache_is_repaired(relu_artifact: Path, tmp_path: Path) -> None:
    digest = read_artifact(relu_artifact).manifest["members"]["lib/model.so"]["sha256"]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / f"{digest}.so").write_bytes(b"damaged")
    assert relaxc.load(relu_artifact, cache_dir=tmp_path)(X).tolist() == [[1, 0, 3]]


def test_a_cache_that_cannot_be_written(relu_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write the library cache .* XDG_CACHE_HOME"):
        relaxc.load(relu_artifact, cache_dir=tmp_path / "file")


def test_a_missing_library(relu_artifact: Path, tmp_path: Path) -> None:
    def drop(_manifest: dict[str, Any], members: dict[str, Any]) -> None:
        del members["lib/model.so"]

    path = rewritten(relu_artifact, tmp_path / "a.rxc", drop)
    with pytest.raises(ArtifactError, match=r"lacks its library `model.so`; compile it again"):
        relaxc.load(path)


def test_code_that_is_none(relu_artifact: Path, tmp_path: Path) -> None:
    def spoil(_manifest: dict[str, Any], members: dict[str, Any]) -> None:
        members["lib/model.so"] = [b"not an ELF file"]

    path = rewritten(relu_artifact, tmp_path / "a.rxc", spoil)
    with pytest.raises(ArtifactError, match="the code in .* cannot be loaded"):
        relaxc.load(path)


def test_a_thread_pool_of_another_relaxc(relu_artifact: Path, tmp_path: Path) -> None:
    def swap(_manifest: dict[str, Any], members: dict[str, Any]) -> None:
        members["lib/threadpool.so"] = members["lib/model.so"]

    path = rewritten(relu_artifact, tmp_path / "a.rxc", swap)
    with pytest.raises(ArtifactError, match="was made by another relaxc, .* compile the model ag"):
        relaxc.load(path)


def test_an_incomplete_manifest(relu_artifact: Path, tmp_path: Path) -> None:
    def drop(manifest: dict[str, Any], _members: dict[str, Any]) -> None:
        del manifest["requirements"]

    path = rewritten(relu_artifact, tmp_path / "a.rxc", drop)
    with pytest.raises(ArtifactError, match="lacks 'requirements'; compile the model again"):
        relaxc.load(path)


def demanding(artifact: Path, target: Path, **needs: object) -> Artifact:
    def change(manifest: dict[str, Any], _members: dict[str, Any]) -> None:
        manifest["requirements"] = {**manifest["requirements"], **needs}

    return read_artifact(rewritten(artifact, target, change))


def test_another_architecture(relu_artifact: Path, tmp_path: Path) -> None:
    opened = demanding(relu_artifact, tmp_path / "a.rxc", architecture="sparc")
    with pytest.raises(TargetError, match="is built for sparc, this machine is .*; compile"):
        require_this_machine(opened)


def test_a_cpu_without_a_feature(relu_artifact: Path, tmp_path: Path) -> None:
    opened = demanding(relu_artifact, tmp_path / "a.rxc", cpu_features=["avx9", "sse3"])
    with pytest.raises(TargetError, match="needs CPU features that this machine lacks: avx9; "):
        require_this_machine(opened)


def test_another_abi(relu_artifact: Path, tmp_path: Path) -> None:
    def age(manifest: dict[str, Any], _members: dict[str, Any]) -> None:
        manifest["versions"] = {**manifest["versions"], "tvm_ffi": "9.1.0"}

    opened = read_artifact(rewritten(relu_artifact, tmp_path / "a.rxc", age))
    with pytest.raises(
        TargetError, match=r"needs apache-tvm-ffi 9.1.0, .* `pip install apache-tvm"
    ):
        require_this_machine(opened)


def test_another_build_of_tvm_in_one_process(relu_artifact: Path, tmp_path: Path) -> None:
    relaxc.load(relu_artifact)

    def swap(_manifest: dict[str, Any], members: dict[str, Any]) -> None:
        members["lib/libtvm_runtime.so"] = [b"another build"]

    path = rewritten(relu_artifact, tmp_path / "a.rxc", swap)
    with pytest.raises(TargetError, match="already runs another build of it; load the artifact in"):
        relaxc.load(path)
