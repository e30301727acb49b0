"""GPUs that wait for each other are all started, or none; tested on made-up ones."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relaxc import communicator
from relaxc.errors import InputError, OptionError, TargetError
from relaxc.runtime import peers
from relaxc.runtime.divided import DividedRunner
from relaxc.runtime.divided_tensor import DividedTensor
from relaxc.runtime.peers import Peers


class FakeTensor:
    """An array that is said to lie on a GPU."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.address = array.ctypes.data

    def numpy(self) -> np.ndarray:
        return self._array


class FakeRank:
    """Notes what it is told, and doubles its first input."""

    def __init__(self, number: int, notes: list[str]) -> None:
        self.gpu = self
        self._number, self._notes = number, notes

    def activate(self) -> None:
        """There is nothing to do."""

    def find(self, _place: tuple[int, ...]) -> bool:
        return "record 0" in self._notes

    def begin(self, inputs: list[Any]) -> None:
        self._notes.append(f"begin {self._number}")
        self.inputs = [x if isinstance(x, np.ndarray) else x.numpy() for x in inputs]

    def compute_alone(self) -> None:
        self._notes.append(f"alone {self._number}")

    def record(self) -> None:
        self._notes.append(f"record {self._number}")

    def launch(self) -> list[FakeTensor]:
        self._notes.append(f"launch {self._number}")
        return [FakeTensor(self.inputs[0] * 2), FakeTensor(self.inputs[1])]


def runner(notes: list[str]) -> DividedRunner:
    ranks: Any = [FakeRank(number, notes) for number in range(2)]

    def introduce(joined: bool) -> None:
        notes.append("join" if joined else "part")

    return DividedRunner(ranks, [1, None], [1, None], threading.Lock(), introduce)


def test_all_are_recorded_before_any_is_started() -> None:
    notes: list[str] = []
    run = runner(notes)
    x, y = np.arange(12.0).reshape(2, 6), np.arange(3.0)
    results = run.run([x, y])
    np.testing.assert_array_equal(results[0], x * 2)
    np.testing.assert_array_equal(results[1], y)
    first = "begin 0, begin 1, part, alone 0, alone 1, join, record 0, record 1, launch 0, launch 1"
    assert ", ".join(notes) == first
    notes.clear()
    run.run([x, y])
    assert ", ".join(notes) == "begin 0, begin 1, record 0, record 1, launch 0, launch 1"


def test_inputs_that_were_put_there() -> None:
    x, y = np.arange(12.0).reshape(2, 6), np.arange(3.0)
    there: Any = [FakeTensor(x[:, :3]), FakeTensor(x[:, 3:])]
    whole: Any = [FakeTensor(y), FakeTensor(y)]
    notes: list[str] = []
    run = runner(notes)
    doubled, _ = run.run([DividedTensor(there, 1), y])
    run.run([DividedTensor(there, 1), DividedTensor(whole, None)])
    assert notes[-4:] == ["launch 0", "launch 1"] * 2  # nothing is asked for again
    assert isinstance(doubled, DividedTensor) and doubled.axis == 1
    assert doubled.shape == (2, 6) and doubled.nbytes == x.nbytes
    np.testing.assert_array_equal(doubled.numpy(), x * 2)
    with pytest.raises(InputError, match=r"shape \[4, 3\] must be divided along axis 1 on each of"):
        runner([]).run([DividedTensor(there, 0), y])
    with pytest.raises(OptionError, match="divided among 2 GPUs along axis 1; take its `parts`"):
        doubled.__dlpack__()


class FakeGpu:
    """Memory of the host, which some others reach."""

    name = "Made Up 1"

    def __init__(self, index: int, *, is_connected: bool) -> None:
        self.index = index
        self.asked: list[tuple[str, Any]] = []
        self._is_connected = is_connected

    def activate(self) -> None:
        """There is nothing to do."""

    def synchronize(self) -> None:
        """There is nothing to do."""

    def call(self, name: str, *args: Any, accepted: Any = ()) -> None:
        self.asked.append((name, args))
        if name == "cudaDeviceCanAccessPeer":
            args[0]._obj.value = int(self._is_connected)

    def upload(self, address: int, array: np.ndarray) -> None:
        self.asked.append(("upload", (address, array.copy())))


def test_gpus_that_cannot_reach_each_other() -> None:
    gpus: Any = [FakeGpu(index, is_connected=False) for index in (0, 3)]
    with pytest.raises(
        TargetError, match=r"GPU 0 \(Made Up 1\) cannot reach that of GPU 3; use GPUs that NVLink"
    ):
        Peers(Path("model.rxc"), gpus)


def test_kernels_are_told_where_the_memory_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(shape: tuple[int, ...], dtype: np.dtype[Any], _gpu: Any) -> FakeTensor:
        return FakeTensor(np.empty(shape, dtype))

    monkeypatch.setattr(peers, "empty_like", empty)
    gpus: Any = [FakeGpu(index, is_connected=True) for index in (0, 1)]
    shared = Peers(Path("model.rxc"), gpus)
    shared.introduce([640, 128], joined=True)
    told = [dict(gpu.asked)["upload"] for gpu in gpus]
    assert [address for address, _ in told] == [640, 128]
    for rank, (_, numbers) in enumerate(told):
        assert numbers.nbytes == len(communicator.PLACEHOLDER)
        assert list(numbers[: communicator.AREAS]) == [rank, 2, 1]
        areas = numbers[communicator.AREAS : communicator.AREAS + 2]
        cleared = [dict(gpu.asked)["cudaMemset"][0].value for gpu in gpus]
        assert list(areas) == cleared
