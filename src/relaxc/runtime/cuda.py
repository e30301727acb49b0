"""An NVIDIA GPU: is it there, does it fit, and copies to and from its memory.

The driver is asked directly, before any library that needs it is loaded, so that what is missing
is said in one line. Everything runs on CUDA's default stream, in the order of the calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.errors import OptionError, TargetError
from relaxc.runtime import ffi

RUNTIME = "libcudart.so.13"
_MAJOR, _MINOR = 75, 76
_NO_DEVICE = 100
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3


def parse_device(text: str) -> tuple[str, int]:
    """Read `cpu`, `cuda` or `cuda:1` as a kind and an index.

    Raises:
        OptionError: it is none of these.
    """
    kind, colon, number = text.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (number.isdigit() and kind == "cuda")):
        raise OptionError(f"unknown device `{text}`; use `cpu`, `cuda` or `cuda:1`")
    return kind, int(number or 0)


def parts_of(text: str) -> list[str]:
    """The devices of a list such as `cuda:0,1`.

    Raises:
        OptionError: it is no list of different GPUs.
    """
    kind, _, numbers = text.partition(":")
    parts = [f"{kind}:{number.strip()}" for number in numbers.split(",")]
    if len(set(parts)) < len(parts):
        raise OptionError(f"`{text}` names a GPU twice")
    for part in parts:
        parse_device(part)
    return parts


class Gpu:
    """One GPU that fits an artifact.

    Attributes:
        index: its number.
        name: what its maker calls it.
    """

    def __init__(self, path: Path, index: int, needs: Mapping[str, Any]) -> None:
        """Find the GPU.

        Raises:
            TargetError: no driver, no GPU, too old a driver, or another architecture.
            OptionError: there are fewer GPUs.
        """
        self.index = index
        driver = _driver(path)
        _require_driver(driver, path, str(needs["driver"]))
        count = _ask(driver.cuDeviceGetCount)
        if index >= count:
            raise OptionError(f"there is no GPU {index}; this machine has {count}, from 0 on")
        device = _ask(driver.cuDeviceGet, index)
        text = ctypes.create_string_buffer(256)
        driver.cuDeviceGetName(text, len(text), device)
        self.name = text.value.decode(errors="replace")
        major, minor = (_ask(driver.cuDeviceGetAttribute, a, device) for a in (_MAJOR, _MINOR))
        built = int(str(needs["arch"]).removeprefix("sm_"))
        if built // 10 != major or built % 10 > minor:
            raise TargetError(
                f"`{path}` is built for {needs['arch']}, GPU {index} ({self.name}) is "
                f"sm_{major}{minor}; compile the model for that"
            )
        self._runtime = load_runtime()
        self.call("cudaSetDevice", index)

    def empty(self, shape: tuple[int, ...], code: int, bits: int) -> ffi.Object:
        """An uninitialized tensor in the GPU's memory."""
        allocate = ffi.global_function("runtime.TVMTensorAllocWithScope")
        make_shape = ffi.global_function("ffi.Shape")
        assert allocate is not None and make_shape is not None
        dims = ffi.call(make_shape, *shape)
        arguments = (dims.value, ffi.dtype_value(code, bits), self.value, ffi.Value())
        tensor = ffi.invoke(allocate, (ffi.Value * 4)(*arguments))
        assert isinstance(tensor, ffi.Object)
        return tensor

    @property
    def value(self) -> ffi.Value:
        """This device as an argument."""
        return ffi.device_value(ffi.CUDA, self.index)

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the GPU; it may change as soon as this returns."""
        self._copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE)

    def download(self, array: np.ndarray, address: int) -> None:
        """Begin to copy into a contiguous array; `synchronize` waits for the end."""
        self._copy(array.ctypes.data, address, array.nbytes, _TO_HOST)

    def copy(self, to: int, address: int, size: int) -> None:
        """Copy within the GPU's memory."""
        self._copy(to, address, size, _ON_DEVICE)

    def activate(self) -> None:
        """Make this GPU the calling thread's."""
        self.call("cudaSetDevice", self.index)

    def synchronize(self) -> None:
        """Wait for everything that was asked for."""
        self.call("cudaStreamSynchronize", None)

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        if size:
            self.call("cudaMemcpyAsync", to, source, size, kind, None)

    def call(self, name: str, *args: Any, accepted: Sequence[int] = ()) -> None:
        """Call a function of CUDA's runtime library.

        Args:
            name: the function.
            args: its arguments.
            accepted: results that are no failure here.

        Raises:
            FfiError: it fails.
        """
        status = getattr(self._runtime, name)(*args)
        if status:
            text = self._runtime.cudaGetErrorString(status).decode()
            self._runtime.cudaGetLastError()  # or the next call would report it again
            if status in accepted:
                return
            raise ffi.FfiError(f"CUDA: {text} (`{name}` on GPU {self.index})")


def _driver(path: Path) -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        status = driver.cuInit(0)
    except (OSError, AttributeError):
        raise TargetError(
            f"`{path}` needs an NVIDIA GPU, but this machine has no driver for one "
            "(`libcuda.so.1`); run it on another machine, or compile the model for `llvm`"
        ) from None
    if status == _NO_DEVICE:
        raise TargetError(f"`{path}` needs an NVIDIA GPU, but the driver sees none")
    if status:
        raise TargetError(f"the NVIDIA driver fails to start (error {status}); see `nvidia-smi`")
    return driver


def _require_driver(driver: ctypes.CDLL, path: Path, needed: str) -> None:
    version = _ask(driver.cuDriverGetVersion)
    major, minor = version // 1000, version % 1000 // 10
    if (major, minor) < tuple(map(int, needed.split("."))):
        raise TargetError(
            f"`{path}` needs a driver for CUDA {needed}, this machine's is for {major}.{minor}; "
            "update the NVIDIA driver"
        )


def _ask(function: Any, *args: int) -> int:
    """Call a function of the driver that fills in a number."""
    value = ctypes.c_int()
    status = function(ctypes.byref(value), *args)
    if status:
        raise TargetError(f"the NVIDIA driver fails in `{function.__name__}` (error {status})")
    return value.value


@functools.cache
def load_runtime() -> ctypes.CDLL:
    """CUDA's runtime library, from the system, NVIDIA's wheel or the toolkit's usual place.

    Raises:
        TargetError: it is nowhere.
    """
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    places = [RUNTIME]
    places += [str(Path(f, kind, "lib", RUNTIME)) for f in folders for kind in _WHEELS]
    places.append(f"/usr/local/cuda/lib64/{RUNTIME}")
    for place in places:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(place, mode=ctypes.RTLD_GLOBAL)
            pointer, size, flag = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
            library.cudaMemcpyAsync.argtypes = [pointer, pointer, size, flag, pointer]
            for name in ("cudaStreamSynchronize", "cudaStreamDestroy", "cudaGraphDestroy"):
                getattr(library, name).argtypes = [pointer]
            library.cudaGraphExecDestroy.argtypes = [pointer]
            library.cudaGraphLaunch.argtypes = [pointer, pointer]
            library.cudaStreamBeginCapture.argtypes = [pointer, flag]
            library.cudaStreamEndCapture.argtypes = [pointer, pointer]
            library.cudaStreamCreateWithFlags.argtypes = [pointer, flag]
            library.cudaGraphInstantiate.argtypes = [pointer, pointer, ctypes.c_ulonglong]
            library.cudaGetErrorString.restype = ctypes.c_char_p
            return library
    raise TargetError(
        f"CUDA's runtime library `{RUNTIME}` is missing; run `pip install nvidia-cuda-runtime`, "
        "or install CUDA 13"
    )


_WHEELS = ("cu13", "cuda_runtime")
