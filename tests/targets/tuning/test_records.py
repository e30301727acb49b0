"""Whatever happens to a writer or to the file, what was committed is read."""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relaxc.errors import OutputError, RecordsError
from relaxc.targets.tuning import records
from relaxc.targets.tuning.records import (
    Contents,
    RecordStore,
    default_records_path,
    line_of,
    parse,
    records_path,
)

KILLS = 200


def record(number: int, size: int = 40) -> dict[str, object]:
    return {"number": number, "text": "x" * size, "nested": {"b": [1.5, None], "a": "ü\n"}}


def numbers(contents: Contents) -> list[int]:
    return [int(r["number"]) for r in contents.records]


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "new" / "folder" / "records.jsonl")


def test_what_is_appended_is_read_in_order(store: RecordStore) -> None:
    assert store.read() == Contents((), 0)
    store.append([record(0), record(1)])
    store.append([])
    store.append([record(2)])
    assert store.read() == Contents((record(0), record(1), record(2)), 0)


def test_a_repetition_is_read_once(store: RecordStore) -> None:
    store.append([record(0), record(1), record(0)])
    assert numbers(store.read()) == [0, 1]


def fork(work: Callable[[], None]) -> int:
    """Run something in a child that touches nothing but files, and ends."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def write_in_pieces(handle: int, data: bytes) -> None:
    """Instead of one write: so that a kill hits the middle of a line."""
    for i in range(0, len(data), 16):
        os.write(handle, data[i : i + 16])
        time.sleep(5e-5)  # it is in the middle of one most of the time


@pytest.mark.parametrize("torn", [False, True], ids=["one-write", "in-pieces"])
def test_killed_writers_lose_nothing_that_was_committed(
    store: RecordStore, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torn:
        monkeypatch.setattr(records, "_write", write_in_pieces)
    rng = random.Random(0)
    committed: list[int] = []
    torn_lines = 0
    store.append([record(-1)])
    for kill in range(KILLS // 2):
        reader, writer = os.pipe()

        def work(first: int = kill * 10_000, to: int = writer) -> None:
            for number in range(first, first + 10_000):
                store.append([record(number, 900)])
                os.write(to, struct.pack("q", number))

        child = fork(work)
        os.close(writer)
        committed += struct.unpack("q", os.read(reader, 8))  # it has begun
        time.sleep(rng.uniform(0, 0.004))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reader, 8):
            committed += struct.unpack("q", more)
        os.close(reader)
        torn_lines += not store.path.read_bytes().endswith(b"\n")
    found = store.read()
    assert set(committed) <= set(numbers(found))
    assert found.damaged <= torn_lines <= KILLS // 2
    if torn:
        assert torn_lines > 0, "no kill hit a line; the test proves nothing"


def test_four_writers_at_a_time_lose_nothing(store: RecordStore) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 50):
            if number % 10:
                store.append([record(number)])
            else:
                store.append([record(number), record(number + 1000)])

    children = [fork(lambda first=100 * w: work(first)) for w in range(4)]  # type: ignore[misc]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    expected = {100 * w + i for w in range(4) for i in range(50)}
    expected |= {number + 1000 for number in expected if number % 10 == 0}
    found = store.read()
    assert set(numbers(found)) == expected and len(found.records) == len(expected)
    assert found.damaged == 0


def test_a_writer_waits_for_a_rewrite(store: RecordStore) -> None:
    store.append([record(0), record(1)])
    children: list[int] = []

    def change(contents: Contents) -> list[records.Fields]:
        children.append(fork(lambda: store.append([record(2)])))
        time.sleep(0.05)
        return list(contents.records[1:])

    store.replace(change)
    os.waitpid(children[0], 0)
    assert numbers(store.read()) == [1, 2]


def test_a_file_cut_at_any_byte_keeps_its_whole_lines_and_takes_more(store: RecordStore) -> None:
    lines = [line_of(record(i)) for i in range(3)]
    data = b"".join(lines)
    for cut in range(len(data) + 1):
        store.path.parent.mkdir(parents=True, exist_ok=True)
        store.path.write_bytes(data[:cut])
        store.append([record(9)])
        # A line that lacks nothing but its end is whole.
        whole = [i for i in range(3) if cut >= len(b"".join(lines[: i + 1])) - 1]
        found = store.read()
        assert numbers(found) == [*whole, 9], cut
        assert found.damaged <= 1


@pytest.mark.parametrize("garbage", [b"\0", b"\xff", b"\n", b"[", b"7"])
def test_a_byte_changed_anywhere_loses_one_line_or_two_neighbours(garbage: bytes) -> None:
    lines = [line_of(record(i)) for i in range(4)]
    data = b"".join(lines)
    starts = [sum(map(len, lines[:i])) for i in range(5)]
    for at in range(len(data)):
        if data[at : at + 1] == garbage:
            continue
        hit = next(i for i in range(4) if starts[i] <= at < starts[i + 1])
        is_end = at == starts[hit + 1] - 1
        lost = {hit, hit + 1} if is_end else {hit}
        found = parse(data[:at] + garbage + data[at + 1 :])
        assert numbers(found) == [i for i in range(4) if i not in lost], (at, garbage)
        assert found.damaged >= 1


def test_records_are_not_taken_from_other_json() -> None:
    for line in (b"{}", b"[]", b'["abc",{"number":1}]', b"3", b"[" * 5000, b'["x"]'):
        assert parse(line) == Contents((), 1)


def test_rewriting_leaves_out_what_is_dropped_and_damaged(store: RecordStore) -> None:
    store.append([record(0), record(1)])
    with store.path.open("ab") as file:
        file.write(b"torn")
    store.replace(lambda contents: contents.records[1:])
    assert store.read() == Contents((record(1),), 0)


def test_places_are_files_or_folders_or_the_default(tmp_path: Path, cache: Path) -> None:
    assert records_path(tmp_path) == tmp_path / "records.jsonl"
    assert records_path(tmp_path / "team") == tmp_path / "team" / "records.jsonl"
    assert records_path(tmp_path / "team.jsonl") == tmp_path / "team.jsonl"
    assert records_path(None) == default_records_path() == cache / "relaxc/tuning/records.jsonl"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="cannot read the tuning records .*: Is a directory"):
        RecordStore(tmp_path).read()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the tuning records .*; give another place"):
        RecordStore(tmp_path / "file" / "records.jsonl").append([record(0)])
