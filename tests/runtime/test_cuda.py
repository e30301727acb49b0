"""What keeps a GPU from running an artifact is said in one line; tested on a made-up driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relaxc.errors import OptionError, TargetError
from relaxc.runtime.cuda import Gpu, parse_device

NEEDS = {"arch": "sm_90", "driver": "13.0"}
ARTIFACT = Path("model.rxc")


class FakeDriver:
    """As much of the driver as a `Gpu` asks."""

    def __init__(self, version: int = 13000, capability: tuple[int, int] = (9, 0)) -> None:
        self.status = 0
        self.version = version
        self.capability = capability

    def cuInit(self, _flags: int) -> int:
        return self.status

    def cuDriverGetVersion(self, value: Any) -> int:
        value._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, value: Any) -> int:
        value._obj.value = 2
        return 0

    def cuDeviceGet(self, value: Any, index: int) -> int:
        value._obj.value = index
        return 0

    def cuDeviceGetName(self, buffer: Any, _size: int, _device: int) -> int:
        buffer.value = b"Made Up 1"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _device: int) -> int:
        value._obj.value = self.capability[attribute - 75]
        return 0


def use(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name, **_options: driver)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str, **_options: object) -> None:
        raise OSError("no such file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    with pytest.raises(TargetError, match=r"`model.rxc` needs an NVIDIA GPU, but this machine has"):
        Gpu(ARTIFACT, 0, NEEDS)


@pytest.mark.parametrize(
    ("status", "message"), [(100, "the driver sees none"), (999, r"fails to start \(error 999\)")]
)
def test_a_driver_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    driver = FakeDriver()
    driver.status = status
    use(monkeypatch, driver)
    with pytest.raises(TargetError, match=message):
        Gpu(ARTIFACT, 0, NEEDS)


def test_too_old_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeDriver(version=12040))
    with pytest.raises(TargetError, match=r"needs a driver for CUDA 13.0, this .* is for 12.4"):
        Gpu(ARTIFACT, 0, NEEDS)


@pytest.mark.parametrize("capability", [(8, 6), (10, 0)])
def test_another_architecture(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    use(monkeypatch, FakeDriver(capability=capability))
    major, minor = capability
    with pytest.raises(
        TargetError, match=rf"is built for sm_90, GPU 1 \(Made Up 1\) is sm_{major}{minor}"
    ):
        Gpu(ARTIFACT, 1, NEEDS)


def test_fewer_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeDriver())
    with pytest.raises(OptionError, match="there is no GPU 2; this machine has 2"):
        Gpu(ARTIFACT, 2, NEEDS)


def test_devices() -> None:
    assert parse_device("cpu") == ("cpu", 0)
    assert parse_device("cuda") == ("cuda", 0)
    assert parse_device("cuda:3") == ("cuda", 3)


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_an_unknown_device(text: str) -> None:
    with pytest.raises(OptionError, match="unknown device"):
        parse_device(text)
