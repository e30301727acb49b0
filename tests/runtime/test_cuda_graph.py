"""Calls are recorded once for each place of their inputs; tested on a made-up GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from relaxc.runtime import ffi
from relaxc.runtime.cuda_graph import Recorder


class FakeGpu:
    """Counts what is asked of CUDA's runtime library."""

    index = 0

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failing = ""

    def call(self, name: str, *args: Any) -> None:
        self.asked.append(name)
        if name == self.failing:
            raise ffi.FfiError(f"CUDA: {name}")
        if name in ("cudaStreamCreateWithFlags", "cudaGraphInstantiate"):
            args[0]._obj.value = 1
        if name == "cudaStreamEndCapture":
            args[1]._obj.value = 1


class Machine:
    """A virtual machine that makes a new result in every call."""

    def __init__(self) -> None:
        self.calls = 0
        self.streams: list[int | None] = []

    def __call__(self) -> list[ffi.Object]:
        self.calls += 1
        before = ctypes.c_void_p()
        ffi.library().TVMFFIEnvSetStream(ffi.CUDA, 0, None, ctypes.byref(before))
        ffi.library().TVMFFIEnvSetStream(ffi.CUDA, 0, before, None)
        self.streams.append(before.value)
        return [ffi.new_tensor([2], 2, 32, 8, 64)]


def test_the_first_call_is_not_recorded_and_the_third_replays() -> None:
    gpu, machine = FakeGpu(), Machine()
    recorder = Recorder(gpu)  # type: ignore[arg-type]
    for _ in range(3):
        recorder.run((64,), machine)
    assert machine.calls == 2
    assert machine.streams == [None, 1]  # recorded on a stream of its own
    assert gpu.asked.count("cudaGraphLaunch") == 2
    assert gpu.asked.count("cudaStreamEndCapture") == 1


def test_results_that_are_held_are_not_overwritten() -> None:
    recorder, machine = Recorder(FakeGpu()), Machine()  # type: ignore[arg-type]
    recorder.run((64,), machine)
    held = [recorder.run((64,), machine)[0] for _ in range(3)]
    assert len({result.handle for result in held}) == 3
    del held[1:]
    assert recorder.run((64,), machine)[0].handle != held[0].handle
    assert machine.calls == 4  # the second graph was free again


def test_other_places_have_graphs_of_their_own() -> None:
    recorder, machine = Recorder(FakeGpu()), Machine()  # type: ignore[arg-type]
    results = [recorder.run(place, machine) for place in ((64,), (64,), (128,))]
    assert results[1][0].handle != results[2][0].handle
    assert machine.calls == 3


def test_a_place_is_usual_from_the_second_time_on() -> None:
    recorder = Recorder(FakeGpu())  # type: ignore[arg-type]
    assert [recorder.is_usual(p) for p in ((1,), (2,), (1,))] == [False, False, True]


@pytest.mark.parametrize("step", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_what_cannot_be_recorded_is_called(step: str) -> None:
    gpu, machine = FakeGpu(), Machine()
    gpu.failing = step
    recorder = Recorder(gpu)  # type: ignore[arg-type]
    for _ in range(3):
        assert len(recorder.run((64,), machine)) == 1
    assert not recorder.works
    assert machine.calls == 4
    assert "cudaGraphLaunch" not in gpu.asked
