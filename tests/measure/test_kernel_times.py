"""Times of kernels on disk."""

from __future__ import annotations

from pathlib import Path

from relaxc.measure.kernel_times import KernelTimes


def test_times_are_kept_by_machine_and_threads(tmp_path: Path) -> None:
    KernelTimes(2, tmp_path).add({"a": 2.0, "b": 1.0})
    again = KernelTimes(2, tmp_path)
    assert (again.get("a"), again.get("b"), again.get("c")) == (2.0, 1.0, None)
    assert KernelTimes(1, tmp_path).get("a") is None


def test_what_is_known_stays(tmp_path: Path) -> None:
    one, other = KernelTimes(2, tmp_path), KernelTimes(2, tmp_path)
    one.add({"a": 2.0, "b": 1.0})
    other.add({"a": 1.0, "c": 4.0})
    assert [other.get(key) for key in "abc"] == [2.0, 1.0, 4.0]
    assert [KernelTimes(2, tmp_path).get(key) for key in "abc"] == [2.0, 1.0, 4.0]


def test_times_that_are_not_kept(tmp_path: Path) -> None:
    times = KernelTimes(2, tmp_path)
    times.add({"a": 2.0}, keep=False)
    times.add({"b": 1.0})
    assert (times.get("a"), times.get("b")) == (2.0, 1.0)
    again = KernelTimes(2, tmp_path)
    assert (again.get("a"), again.get("b")) == (None, 1.0)


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    times = KernelTimes(2, tmp_path)
    times.path.write_text("{")
    damaged = KernelTimes(2, tmp_path)
    assert damaged.get("a") is None
    damaged.add({"a": 1.0})
    assert KernelTimes(2, tmp_path).get("a") == 1.0


def test_without_a_folder_times_serve_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    times = KernelTimes(2, tmp_path / "file")
    times.add({"a": 1.0})
    assert times.get("a") == 1.0
