"""Measuring artifacts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from relaxc.errors import InputError, OptionError
from relaxc.measure.bench import BenchOptions, bench
from relaxc.measure.feeds import FeedOptions
from relaxc.measure.machine import Machine, peak_memory_bytes, this_machine
from relaxc.runtime.model import Model


def test_a_short_measurement(conv_artifact: Path) -> None:
    result = bench(conv_artifact, BenchOptions(warmup_ms=0, duration_s=0, iterations=7))
    assert len(result.latencies_ms) == 7
    assert result.inferences == 7
    assert (result.latencies_ms > 0).all()
    assert result.throughput > 0
    assert result.load_ms > 0
    assert result.first_ms > 0
    assert result.shapes == {"x": (1, 3, 8, 8)}


def test_several_streams_and_inferences_per_sample(relu_artifact: Path) -> None:
    options = BenchOptions(
        feed=FeedOptions(shapes={"x": (2, 3)}),
        warmup_ms=0,
        duration_s=0,
        iterations=5,
        number=3,
        streams=2,
    )
    result = bench(relu_artifact, options)
    assert len(result.latencies_ms) == 10
    assert result.inferences == 30


@pytest.mark.parametrize("streams", [1, 3])
def test_an_error_in_a_stream_ends_all(
    relu_artifact: Path, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    good, calls = Model.run, itertools.count()

    def run(self: Model, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if next(calls) == 10:
            raise InputError("the tenth fails")
        return good(self, feed)

    monkeypatch.setattr(Model, "run", run)
    options = BenchOptions(warmup_ms=0, duration_s=600, streams=streams)
    with pytest.raises(InputError, match="the tenth fails"):
        bench(relu_artifact, options)


def test_the_duration_is_kept(relu_artifact: Path) -> None:
    result = bench(relu_artifact, BenchOptions(warmup_ms=0, duration_s=0.2))
    assert result.wall_s >= 0.2


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"number": 0},
        {"streams": 0},
        {"warmup_ms": -1},
        {"duration_s": -1},
        {"percentiles": (101,)},
    ],
)
def test_options_are_validated(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="must"):
        BenchOptions(**wrong)  # type: ignore[arg-type]


def test_the_machine_is_described() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.cpu
    assert Machine("x", 2, (1.5, 0, 0)).is_busy
    assert not Machine("x", 2, (0.5, 0, 0)).is_busy


def test_memory_is_that_of_this_process() -> None:
    assert 10e6 < peak_memory_bytes() < 64e9
