"""The file that measurements are kept in, which survives power loss and many writers.

One record per line: a JSON array of a checksum and the record. Lines are only ever appended, each
with one write under a lock, and are on the disk when `append` returns. So a killed writer or a lost
page damages at most the line being written: reading skips what does not match its checksum, and the
next writer begins a new line after a torn one. Readers take no lock; `replace` puts a new file in
the old one's place.

This is the only file that writes records; their fields are others' business.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaxc.cache import default_cache_dir
from relaxc.errors import OutputError, RecordsError
from relaxc.replacing import replacing

Fields = Mapping[str, Any]
# What a folder of records is expected to hold.
FILE = "records.jsonl"


@dataclass(frozen=True)
class Contents:
    """What a file of records holds.

    Attributes:
        records: in the order in which they were written, repetitions left out.
        damaged: lines that hold none: torn by a crash, or changed.
    """

    records: tuple[Fields, ...]
    damaged: int


def default_records_path() -> Path:
    """Where records are kept unless told otherwise."""
    return default_cache_dir() / "tuning" / FILE


def records_path(place: Path | None) -> Path:
    """The file that a user means: a file, or a folder that holds one; None is the default."""
    if place is None:
        return default_records_path()
    return place / FILE if place.is_dir() or not place.suffix else place


class RecordStore:
    """A file of records.

    Args:
        path: the file; it and its folder are made by the first `append`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Contents:
        """All records that are whole.

        Raises:
            RecordsError: the file is there, but cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Contents((), 0)
        except OSError as err:
            raise RecordsError(
                f"cannot read the tuning records `{self.path}`: {err.strerror}"
            ) from err
        return parse(data)

    def append(self, records: Iterable[Fields]) -> None:
        """Add records; they are on the disk when this returns.

        Raises:
            OutputError: they cannot be written.
        """
        lines = b"".join(line_of(record) for record in records)
        if not lines:
            return
        with self._locked():
            is_new = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                _write(handle, (b"" if _ends_whole(handle) else b"\n") + lines)
                os.fsync(handle)
            finally:
                os.close(handle)
            if is_new:
                _sync_folder(self.path.parent)

    def replace(self, change: Callable[[Contents], Iterable[Fields]]) -> None:
        """Rewrite the file; other writers wait.

        Args:
            change: gives the records to keep, from those that are there.

        Raises:
            RecordsError, OutputError: the file cannot be read or written.
        """
        with self._locked():
            kept = change(self.read())
            with replacing(self.path) as file:
                file.write(b"".join(line_of(record) for record in kept))
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(self.path.parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time. The lock is a file of its own, because `replace` swaps the other.

        The system releases it when its holder dies, however that happens.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = self.path.with_name(f".{self.path.name}.lock")
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                # Closing alone would not do if another thread has forked meanwhile.
                fcntl.flock(handle, fcntl.LOCK_UN)
                os.close(handle)
        except OSError as err:
            raise OutputError(
                f"cannot write the tuning records `{self.path}`: {err.strerror}; "
                "give another place with `--tuning-records`"
            ) from err


def line_of(record: Fields) -> bytes:
    """A record as a line of the file."""
    text = canonical(record)
    return f'["{_checksum(text)}",{text}]\n'.encode()


def canonical(value: Any) -> str:
    """JSON in which equal values are equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse(data: bytes) -> Contents:
    """Read what `line_of` wrote; lines that are not whole are counted."""
    found: dict[bytes, Fields] = {}
    damaged = 0
    for line in data.split(b"\n"):
        if not line or line in found:
            continue
        record = _record_of(line)
        if record is None:
            damaged += 1
        else:
            found[line] = record
    return Contents(tuple(found.values()), damaged)


def damaged_lines(data: bytes, is_known: Callable[[Fields], bool]) -> list[tuple[int, str]]:
    """Numbers of the lines that hold no record, and what is wrong with them."""
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        record = _record_of(line) if line else {}
        if record is None:
            found.append((number, "torn or changed: it does not match its checksum"))
        elif line and not is_known(record):
            found.append((number, "no tuning record, or one of a later relaxc"))
    return found


def _record_of(line: bytes) -> Fields | None:
    try:
        checksum, record = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    # Of the text as we would write it: other spellings of the same record are damage, too.
    is_whole = isinstance(record, dict) and line == line_of(record)[:-1]
    return record if is_whole else None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ends_whole(handle: int) -> bool:
    """Whether the file is empty or ends with a line's end; else its last line was torn."""
    size = os.fstat(handle).st_size
    return size == 0 or os.pread(handle, 1, size - 1) == b"\n"


def _write(handle: int, data: bytes) -> None:
    """Write all of it: in one piece, unless the system takes less."""
    while data:
        data = data[os.write(handle, data) :]


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
