"""What a machine must have for tests of GPUs."""

from __future__ import annotations

import ctypes

import pytest

from relaxc.errors import TargetError
from relaxc.targets.cuda.toolchain import find_compiler


def _has_compiler() -> bool:
    try:
        find_compiler()
    except TargetError:
        return False
    return True


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU and its driver."""
    return _gpus() is not None


def _gpus() -> int | None:
    """The number of GPUs; None without a driver."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        is_counted = driver.cuInit(0) == 0 and not driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return None
    return count.value if is_counted else None


needs_cuda_compiler = pytest.mark.skipif(
    not _has_compiler(), reason="neither nvcc nor NVRTC is installed"
)
needs_gpu = pytest.mark.skipif(not has_gpu(), reason="this machine has no NVIDIA GPU")
needs_two_gpus = pytest.mark.skipif((_gpus() or 0) < 2, reason="this machine has no two GPUs")
