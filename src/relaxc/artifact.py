"""The artifact: one file that holds the code, the weights and what a loader must know.

A zip of stored (uncompressed) members, each starting at a multiple of 4096 bytes, so that weights
can be memory-mapped in place:

    manifest.json       schema, source model, inputs and outputs, target, versions, SHA-256s
    lib/*.so            the model, TVM's runtime, the thread pool
    weights.bin         every weight, packed for the target, each aligned to 64 bytes
    pieces/N/*          the same of the compiled parts of a model that the host runs in steps
    licenses/*          notices of what is carried along

The zip's comment holds the SHA-256 of the manifest; the manifest holds that of every other member.
Nothing depends on the time or the machine: equal contents give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.errors import ArtifactError, OutputError
from relaxc.replacing import replacing

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"
_ALIGNMENT = 4096
_WEIGHT_ALIGNMENT = 64
_MEMBER = re.compile(
    r"manifest\.json|(pieces/[0-9]+/)?weights\.bin|(pieces/[0-9]+/)?lib/[A-Za-z0-9][A-Za-z0-9._+-]*"
    r"|licenses/[A-Za-z0-9][A-Za-z0-9._+-]*"
)
_COMMENT = re.compile(rb"relaxc manifest sha256=([0-9a-f]{64})")
_LOCAL_HEADER = b"PK\x03\x04"
_EPOCH = (1980, 1, 1, 0, 0, 0)

Buffer = bytes | memoryview
Manifest = dict[str, Any]


def pack_weights(arrays: Iterable[np.ndarray]) -> tuple[list[dict[str, Any]], list[Buffer]]:
    """Lay arrays out for `weights.bin`.

    Returns:
        One entry per array (dtype, shape, offset and size in bytes), and the chunks to write.
    """
    entries: list[dict[str, Any]] = []
    chunks: list[Buffer] = []
    offset = 0
    for array in arrays:
        padding = -offset % _WEIGHT_ALIGNMENT
        chunks.append(bytes(padding))
        offset += padding
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        entries.append(
            {
                "dtype": array.dtype.name,
                "shape": list(array.shape),
                "offset": offset,
                "size_bytes": data.nbytes,
            }
        )
        chunks.append(data)
        offset += data.nbytes
    return entries, chunks


def write_artifact(
    path: Path, manifest: Manifest, members: Mapping[str, Iterable[Buffer]]
) -> Manifest:
    """Write an artifact atomically; an interrupted or failed call leaves nothing behind.

    Args:
        path: the file to write; an existing one is replaced.
        manifest: everything but `schema_version` and `members`, which are filled in.
        members: name -> chunks of contents.

    Returns:
        The complete manifest.

    Raises:
        OutputError: the file cannot be written.
    """
    full = {
        "schema_version": SCHEMA_VERSION,
        **manifest,
        "members": {name: _describe(chunks) for name, chunks in sorted(members.items())},
    }
    text = json.dumps(full, indent=1, sort_keys=True, ensure_ascii=False).encode()
    try:
        with replacing(path) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.comment = b"relaxc manifest sha256=" + _hex(text).encode()
                _write_member(archive, MANIFEST, [text])
                for name, chunks in sorted(members.items()):
                    _write_member(archive, name, chunks)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        raise OutputError(f"cannot write `{path}`: {err.strerror or err}") from err
    return full


def _hex(data: Buffer) -> str:
    return hashlib.sha256(data).hexdigest()


def _describe(chunks: Iterable[Buffer]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return {"sha256": digest.hexdigest(), "size_bytes": size}


def _write_member(archive: zipfile.ZipFile, name: str, chunks: Iterable[Buffer]) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    size = sum(len(chunk) for chunk in chunks)
    # The extra field pads the local header (30 bytes, name, extra) to the alignment; a zip64
    # header adds 20 bytes of its own in front.
    force_zip64 = size >= zipfile.ZIP64_LIMIT // 2
    assert archive.fp is not None
    start = archive.fp.tell() + 30 + len(name) + (20 if force_zip64 else 0)
    padding = (-(start + 4)) % _ALIGNMENT
    info.extra = b"\xca\xfe" + padding.to_bytes(2, "little") + bytes(padding)
    info.file_size = size
    with archive.open(info, "w", force_zip64=force_zip64) as member:
        for chunk in chunks:
            member.write(chunk)


@dataclass(frozen=True)
class Artifact:
    """An opened artifact whose manifest and members have been verified.

    Attributes:
        path: the file.
        manifest: the decoded manifest.
        data: the whole file, memory-mapped copy-on-write.
        spans: member -> (offset, size) in bytes.
    """

    path: Path
    manifest: Manifest
    data: mmap.mmap
    spans: dict[str, tuple[int, int]]

    def member(self, name: str) -> memoryview:
        """The contents of a member, not copied."""
        offset, size = self.spans[name]
        return memoryview(self.data)[offset : offset + size]

    def piece(self, number: int) -> Artifact:
        """A part of a model that runs in steps, or is divided, as an artifact of the same file."""
        prefix = f"pieces/{number}/"
        members = self.manifest["members"]
        own = {name.removeprefix(prefix): name for name in members if name.startswith(prefix)}
        shared = {name: name for name in members if name.startswith("lib/")}
        names = shared | own
        manifest = {
            **self.manifest,
            **(self.manifest.get("program") or self.manifest["tensor_parallel"])["pieces"][number],
            "members": {name: members[member] for name, member in names.items()},
        }
        spans = {name: self.spans[member] for name, member in names.items()}
        return Artifact(self.path, manifest, self.data, spans)

    def weights(self) -> list[np.ndarray]:
        """The weights, each a view of the mapped file."""
        if WEIGHTS not in self.spans:
            return []
        start = self.spans[WEIGHTS][0]
        return [
            np.frombuffer(
                self.data,
                dtype=numpy_dtype(entry["dtype"]),
                count=int(np.prod(entry["shape"], dtype=np.int64)),
                offset=start + entry["offset"],
            ).reshape(entry["shape"])
            for entry in self.manifest["weights"]
        ]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """A dtype by name; the narrow floats that NumPy lacks come from ml_dtypes."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like an artifact, rather than an ONNX model."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == _LOCAL_HEADER
    except OSError:
        return False


def file_sha256(path: Path) -> str:
    """The SHA-256 of a whole file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Open an artifact and verify it, with the SHA-256 of every member.

    Raises:
        ArtifactError: missing, damaged, not an artifact, or of a newer schema.
    """
    path = Path(path)
    data, spans, comment = _open(path)
    found = _COMMENT.fullmatch(comment)
    if found is None:
        raise ArtifactError(
            f"`{path}` is truncated or damaged: its comment holds no hash; copy it again"
        )
    offset, size = spans[MANIFEST]
    text = data[offset : offset + size]
    if _hex(text) != found[1].decode():
        raise ArtifactError(
            f"`{path}` is damaged: the manifest's hash does not match; copy it again"
        )
    manifest = json.loads(text)
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"`{path}` has artifact schema {version}, this relaxc reads {SCHEMA_VERSION}; "
            "update relaxc, or compile the model again"
        )
    artifact = Artifact(path, manifest, data, spans)
    listed = manifest["members"]
    if set(listed) != set(spans) - {MANIFEST}:
        raise ArtifactError(f"`{path}` is damaged: its members are not those of its manifest")
    for name, facts in listed.items():
        if _hex(artifact.member(name)) != facts["sha256"]:
            raise ArtifactError(
                f"`{path}` is damaged: the hash of `{name}` does not match; copy it again"
            )
    return artifact


def _open(path: Path) -> tuple[mmap.mmap, dict[str, tuple[int, int]], bytes]:
    if path.is_dir():
        raise ArtifactError(f"`{path}` is a folder, not an artifact")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ArtifactError(f"artifact `{path}` is empty")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                comment = archive.comment
    except FileNotFoundError:
        raise ArtifactError(f"artifact `{path}` does not exist") from None
    except OSError as err:
        raise ArtifactError(f"artifact `{path}` cannot be read: {err.strerror}") from err
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as err:
        if not is_artifact(path):
            raise ArtifactError(
                f"`{path}` is not a relaxc artifact; compile ONNX models with `relaxc compile`"
            ) from None
        raise ArtifactError(
            f"artifact `{path}` is truncated or damaged: {err}; copy it again"
        ) from err
    if MANIFEST not in {info.filename for info in members}:
        raise ArtifactError(
            f"`{path}` is a zip file but not a relaxc artifact; "
            "compile ONNX models with `relaxc compile`"
        )
    return data, {info.filename: _span(path, data, info) for info in members}, comment


def _span(path: Path, data: mmap.mmap, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a member's contents lie; refuses names and layouts that we never write."""
    if not _MEMBER.fullmatch(info.filename) or ".." in info.filename:
        raise ArtifactError(
            f"`{path}` holds a member with a forbidden name: `{info.filename[:80]}`"
        )
    at = info.header_offset
    header = data[at : at + 30]
    if info.compress_type != zipfile.ZIP_STORED or len(header) < 30 or header[:4] != _LOCAL_HEADER:
        raise ArtifactError(f"`{path}` is damaged: member `{info.filename}` has a broken header")
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = at + 30 + names
    if start + info.file_size > len(data):
        raise ArtifactError(f"`{path}` is truncated inside of `{info.filename}`; copy it again")
    return start, info.file_size
