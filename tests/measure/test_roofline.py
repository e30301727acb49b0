"""The bounds of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaxc.errors import TargetError
from relaxc.measure import roofline as module
from relaxc.measure.roofline import Roofline, cache_sizes, measure_roofline, roofline

LINE = Roofline(2, {"float32": 100.0, "int8": 400.0}, ((50, 20.0), (1000, 10.0)))


def test_it_has_two_sides() -> None:
    assert LINE.seconds(200, 10) == 2
    assert LINE.bound(200, 10) == "compute"
    assert LINE.seconds(100, 300) == 30
    assert LINE.bound(100, 300) == "memory"


def test_small_working_sets_live_in_faster_memory() -> None:
    assert [LINE.bytes_per_s(size) for size in (1, 50, 51, 5000)] == [20, 20, 10, 10]
    assert LINE.memory_bytes_per_s == 10


def test_a_type_without_an_instruction_runs_as_float32() -> None:
    assert LINE.flops_per_s("int8") == 400
    assert LINE.flops_per_s("bfloat16") == 100
    assert LINE.seconds(400, 0, "int8") == 1


def test_it_can_be_measured() -> None:
    measured = measure_roofline(1, seconds=0.01)
    assert measured.threads == 1
    assert measured.operations_per_s["float32"] > 1e8
    assert [limit for limit, _ in measured.bandwidths] == sorted(
        limit for limit, _ in measured.bandwidths
    )
    assert all(rate > 1e8 for _, rate in measured.bandwidths)


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def measured(threads: int) -> Roofline:
        calls.append(threads)
        return LINE

    monkeypatch.setattr(module, "measure_roofline", measured)
    assert roofline(2, tmp_path) == roofline(2, tmp_path) == LINE
    assert calls == [2]
    roofline(1, tmp_path)
    assert calls == [2, 1]


def test_a_damaged_cache_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_roofline", lambda threads: LINE)
    roofline(2, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text("{")
    assert roofline(2, tmp_path) == LINE
    assert path.read_text() != "{"


def test_it_takes_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_args: object) -> None:
        raise TargetError("no C++ compiler found")

    monkeypatch.setattr(module, "link_shared", missing)
    with pytest.raises(TargetError, match="no C"):
        roofline(1, tmp_path)


def test_caches_have_a_size() -> None:
    l2, last = cache_sizes()
    assert 0 < l2 <= last
