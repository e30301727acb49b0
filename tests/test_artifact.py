"""The artifact: written whole or not at all, deterministic, and suspicious when read."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relaxc.artifact import (
    SCHEMA_VERSION,
    Buffer,
    is_artifact,
    pack_weights,
    read_artifact,
    write_artifact,
)
from relaxc.errors import ArtifactError, OutputError

WEIGHTS: list[np.ndarray] = [
    np.arange(5, dtype=np.float32),
    np.array(3, np.int64),
    np.ones((2, 3), ml_dtypes.bfloat16),
    np.zeros((0, 4), np.float32),
]


def write(path: Path, **manifest: object) -> Path:
    entries, chunks = pack_weights(WEIGHTS)
    members: dict[str, list[Buffer]] = {
        "weights.bin": chunks,
        "lib/model.so": [b"code" * 1000],
        "licenses/A.txt": [b"free"],
    }
    write_artifact(path, {"weights": entries, **manifest}, members)
    return path


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write(tmp_path / "a.rxc", note="ü")


def test_what_was_written_is_read(artifact: Path) -> None:
    opened = read_artifact(artifact)
    assert opened.manifest["note"] == "ü"
    assert opened.manifest["schema_version"] == SCHEMA_VERSION
    assert bytes(opened.member("lib/model.so")) == b"code" * 1000
    for read, written in zip(opened.weights(), WEIGHTS):
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)


def test_members_and_weights_are_aligned(artifact: Path) -> None:
    opened = read_artifact(artifact)
    assert all(start % 4096 == 0 for start, _ in opened.spans.values())
    assert all(entry["offset"] % 64 == 0 for entry in opened.manifest["weights"])


def test_weights_are_mapped_not_copied(artifact: Path) -> None:
    opened = read_artifact(artifact)
    assert all(not w.flags.owndata for w in opened.weights())


def test_any_zip_tool_can_list_and_test_it(artifact: Path) -> None:
    with zipfile.ZipFile(artifact) as archive:
        assert archive.testzip() is None
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read("manifest.json"))["note"] == "ü"


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.rxc"), write(tmp_path / "b.rxc")
    assert first.read_bytes() == second.read_bytes()


def test_the_file_is_readable_by_others(artifact: Path) -> None:
    assert stat.S_IMODE(artifact.stat().st_mode) == 0o644


def test_is_artifact_tells_artifacts_from_other_files(artifact: Path, tmp_path: Path) -> None:
    other = tmp_path / "x.onnx"
    other.write_bytes(b"\x08\x07")
    assert is_artifact(artifact)
    assert not is_artifact(other)
    assert not is_artifact(tmp_path / "nosuch")


# Reading what is no artifact.


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"artifact `.*nosuch.rxc` does not exist"):
        read_artifact(tmp_path / "nosuch.rxc")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is a folder, not an artifact"):
        read_artifact(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.rxc").touch()
    with pytest.raises(ArtifactError, match=r"artifact `.*a.rxc` is empty"):
        read_artifact(tmp_path / "a.rxc")


def test_an_onnx_model(mnist_onnx: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not a relaxc artifact; compile .* `relaxc compile`"):
        read_artifact(mnist_onnx)


def test_another_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.rxc", "w") as archive:
        archive.writestr("weights.npy", "hello")
    with pytest.raises(ArtifactError, match="is a zip file but not a relaxc artifact; compile"):
        read_artifact(tmp_path / "a.rxc")


@pytest.mark.parametrize("name", ["../evil.so", "/etc/passwd", "lib/../../x", "lib\\x", "lib/.."])
def test_member_names_that_would_leave_the_cache_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.rxc", "w") as archive:
        archive.writestr("manifest.json", "{}")
        archive.writestr(zipfile.ZipInfo(name), "boo")
    with pytest.raises(ArtifactError, match="holds a member with a forbidden name"):
        read_artifact(tmp_path / "a.rxc")


def test_a_newer_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relaxc.artifact.SCHEMA_VERSION", 99)
    path = write(tmp_path / "a.rxc")
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="has artifact schema 99, this relaxc reads 1; update"):
        read_artifact(path)


def test_compressed_members(tmp_path: Path, artifact: Path) -> None:
    packed = tmp_path / "packed.rxc"
    with (
        zipfile.ZipFile(artifact) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        new.comment = old.comment
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="is damaged"):
        read_artifact(packed)


# Damage.


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "member", ["manifest.json", "weights.bin", "lib/model.so", "licenses/A.txt"]
)
def test_one_flipped_byte_in_any_member_is_noticed(artifact: Path, member: str) -> None:
    start, size = read_artifact(artifact).spans[member]
    flip(artifact, start + size // 2)
    with pytest.raises(ArtifactError, match=r"is damaged: the .*hash .*does not match"):
        read_artifact(artifact)


def test_truncation_anywhere_is_noticed(artifact: Path, tmp_path: Path) -> None:
    data = artifact.read_bytes()
    places = {0, 1, 3, 4, 29, 30, 4095, 4096, len(data) // 2, len(data) - 22, len(data) - 1}
    for place in places:
        cut = tmp_path / "cut.rxc"
        cut.write_bytes(data[:place])
        with pytest.raises(ArtifactError, match="is empty|truncated|not a relaxc artifact"):
            read_artifact(cut)


def test_the_last_byte_counts_too(artifact: Path) -> None:
    artifact.write_bytes(artifact.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"is truncated or damaged: .*; copy it again"):
        read_artifact(artifact)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_pass_for_other_contents(artifact: Path, data: st.DataObject) -> None:
    original = artifact.read_bytes()
    whole = read_artifact(artifact)
    damaged = artifact.with_name("damaged.rxc")
    shutil.copy(artifact, damaged)
    for _ in range(data.draw(st.integers(1, 3))):
        flip(damaged, data.draw(st.integers(0, len(original) - 1)))
    try:
        read = read_artifact(damaged)
    except ArtifactError:
        return
    # Padding and dates in headers may change without harm; contents may not.
    assert read.manifest == whole.manifest
    assert all(bytes(read.member(name)) == bytes(whole.member(name)) for name in whole.spans)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("random") / "a.rxc"
    path.write_bytes(b"PK\x03\x04" + data)
    with pytest.raises(ArtifactError):
        read_artifact(path)


# Writing.


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write `.*a.rxc`: No space left on device"):
        write(tmp_path / "a.rxc")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_keeps_the_old_file(artifact: Path) -> None:
    before = artifact.read_bytes()
    code = (
        "import resource, sys, pathlib, test_artifact\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        "test_artifact.write(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(artifact)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OutputError: cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert artifact.read_bytes() == before
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_an_interrupted_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.rxc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_weights_above_four_gigabytes(tmp_path: Path) -> None:
    size = (1 << 32) + 4096
    big = np.memmap(tmp_path / "big.bin", np.uint8, "w+", shape=(size,))  # sparse: zeros
    big[-1] = 7
    entries, chunks = pack_weights([big, np.arange(3, dtype=np.float32)])
    path = tmp_path / "a.rxc"
    write_artifact(path, {"weights": entries}, {"weights.bin": chunks})
    first, second = read_artifact(path).weights()
    assert first.nbytes == size
    assert first[-1] == 7
    np.testing.assert_array_equal(second, np.arange(3))
