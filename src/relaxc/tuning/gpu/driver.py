"""The few calls of NVIDIA's driver that launching a cubin takes, through ctypes.

Travels with candidates: no TVM, no library of CUDA, nothing of relaxc is needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Numbers of the driver's interface.
_SHARED_BYTES, _NON_BLOCKING, _RELAXED = 8, 1, 2
_PROGRAMMATIC = 6
# Tiles of so many bytes have their chunks permuted.
_SWIZZLES, _FETCH_256 = {64: 2, 128: 3}, 3
_KINDS = {1: 0, 2: 6, 4: 7}  # of elements, by their size: bytes, halves, floats
_MAP_BYTES = 128


class DriverError(Exception):
    """The driver reports an error."""


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        *((f"grid{i}", ctypes.c_uint) for i in range(3)),
        *((f"block{i}", ctypes.c_uint) for i in range(3)),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    )


class Device:
    """The first GPU, with one stream.

    Attributes:
        name: what its maker calls it.
        arch: as compilers call it.

    Raises:
        DriverError: there is no driver, or no GPU.
    """

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise DriverError("this machine has no driver for an NVIDIA GPU") from None
        self.call("cuInit", 0)
        number, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(number), 0)
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, len(text), number)
        self.name = text.value.decode(errors="replace")
        major, minor = (self._attribute(a, number) for a in (75, 76))
        self.arch = f"sm_{major}{minor}"
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), number)
        self.call("cuCtxSetCurrent", context)
        self._stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
        self._events = [ctypes.c_void_p() for _ in range(2)]
        for event in self._events:
            self.call("cuEventCreate", ctypes.byref(event), 0)

    def _attribute(self, attribute: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        return value.value

    def call(self, name: str, *args: Any) -> None:
        """Call a function of the driver.

        Raises:
            DriverError: it fails.
        """
        function = getattr(self._driver, name, None)
        if function is None:
            raise DriverError(f"the driver has no `{name}`")
        status = function(*args)
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            said = (text.value or b"unknown error").decode()
            raise DriverError(f"{said} ({name}, {status})")

    def upload(self, array: np.ndarray) -> int:
        """A copy of an array in the GPU's memory; its address."""
        array = np.ascontiguousarray(array)
        address = self.allocate(array.nbytes)
        source, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, size)
        return address

    def duplicate(self, address: int, size: int) -> int:
        """A copy of a piece of the GPU's memory."""
        copy = self.allocate(size)
        numbers = ctypes.c_uint64(copy), ctypes.c_uint64(address), ctypes.c_size_t(size)
        self.call("cuMemcpyDtoD_v2", *numbers)
        return copy

    def allocate(self, size: int) -> int:
        """Memory, uninitialized."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def fill(self, address: int, byte: int, size: int) -> None:
        """Set every byte of a piece of memory."""
        args = ctypes.c_uint64(address), ctypes.c_ubyte(byte), ctypes.c_size_t(size)
        self.call("cuMemsetD8_v2", *args)

    def download(self, address: int, array: np.ndarray) -> None:
        """Fill an array from the GPU's memory."""
        target, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self.call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), size)

    def free(self, address: int) -> None:
        """Give memory back."""
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def synchronize(self) -> None:
        """Wait until all is done; what went wrong meanwhile is said now."""
        self.call("cuStreamSynchronize", self._stream)

    def kernel(self, cubin: bytes, name: str, launch: Mapping[str, Any]) -> Kernel:
        """Load a kernel that is launched in one way."""
        return Kernel(self, cubin, name, launch)

    def launch(self, kernel: Kernel, arguments: Any) -> None:
        """Launch a kernel with arguments that were made for it."""
        launch, attribute = kernel.launch, (ctypes.c_int * 18)(_PROGRAMMATIC, 0, 1)
        shape = (*launch["grid"], launch["threads"], 1, 1, launch["shared"])
        config = _Config(*shape, self._stream)
        if launch["overlaps"]:
            config.attributes, config.count = ctypes.addressof(attribute), 1
        self.call("cuLaunchKernelEx", ctypes.byref(config), kernel.function, arguments, None)

    def recorded(self, launches: Callable[[], None]) -> Graph:
        """Record launches, to do them again."""
        graph, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuStreamBeginCapture_v2", self._stream, _RELAXED)
        try:
            launches()
        finally:
            self.call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self.call("cuGraphInstantiateWithFlags", ctypes.byref(handle), graph, ctypes.c_uint64(0))
        self.call("cuGraphDestroy", graph)
        return Graph(self, handle)

    def seconds(self, graph: Graph) -> float:
        """Run recorded launches, and time them by the GPU's clock."""
        begin, end = self._events
        self.call("cuEventRecord", begin, self._stream)
        self.call("cuGraphLaunch", graph.handle, self._stream)
        self.call("cuEventRecord", end, self._stream)
        self.call("cuEventSynchronize", end)
        passed = ctypes.c_float()
        self.call("cuEventElapsedTime", ctypes.byref(passed), begin, end)
        return passed.value * 1e-3

    def map_of(self, about: Mapping[str, Any], base: int, size: int) -> Any:
        """What tells the copy engine how a matrix, or the patches of a map, lie in memory."""
        block = ctypes.create_string_buffer(_MAP_BYTES + 64)
        place = -(-ctypes.addressof(block) // 64) * 64
        head = ctypes.c_void_p(place), _KINDS[size]
        numbers, longs = ctypes.c_uint32, ctypes.c_uint64
        row_bytes = int(about["row_bytes"])
        tail = (0, _SWIZZLES[row_bytes], _FETCH_256, 0)
        if "pixels" in about:
            channels, width, height = (about[k] for k in ("channels", "width", "height"))
            row = channels * width * size
            self.call(
                "cuTensorMapEncodeIm2col",
                *(*head, 4, longs(base)),
                (longs * 4)(channels, width, height, about["images"]),
                (longs * 3)(channels * size, row, row * height),
                *((ctypes.c_int * 2)(*about[end]) for end in ("lower", "upper")),
                *(row_bytes // size, about["pixels"], (numbers * 4)(1, *about["strides"], 1)),
                *tail,
            )
        else:
            self.call(
                "cuTensorMapEncodeTiled",
                *(*head, 2, longs(base)),
                (longs * 2)(about["columns"], about["rows"]),
                (longs * 1)(about["columns"] * size),
                (numbers * 2)(row_bytes // size, about["box_rows"]),
                *((numbers * 2)(1, 1), *tail),
            )
        described = (ctypes.c_ubyte * _MAP_BYTES).from_address(place)
        described.block = block  # type: ignore[attr-defined]  # lives as long as this
        return described


class Kernel:
    """A kernel that is loaded.

    Attributes:
        function: the driver's handle.
        launch: how it is launched.
    """

    def __init__(self, device: Device, cubin: bytes, name: str, launch: Mapping[str, Any]) -> None:
        self.launch = launch
        self.function = ctypes.c_void_p()
        self._device, self._module = device, ctypes.c_void_p()
        device.call("cuModuleLoadData", ctypes.byref(self._module), cubin)
        device.call("cuModuleGetFunction", ctypes.byref(self.function), self._module, name.encode())
        device.call("cuFuncSetAttribute", self.function, _SHARED_BYTES, launch["shared"])

    def arguments(self, addresses: Sequence[int]) -> Any:
        """What to launch it with: pointers, numbers, and descriptions for the copy engine."""
        values: list[Any] = [ctypes.c_uint64(address) for address in addresses]
        values += [ctypes.c_int(number) for number in self.launch["scalars"]]
        for about in self.launch["maps"]:
            _, dtype = self.launch["buffers"][about["buffer"]]
            base, size = addresses[about["buffer"]], np.dtype(dtype).itemsize
            values.append(self._device.map_of(about, base, size))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        pointers.values = values  # type: ignore[attr-defined]  # live as long as this
        return pointers

    def unload(self) -> None:
        """Give its memory back."""
        self._device.call("cuModuleUnload", self._module)


class Graph:
    """Launches that were recorded.

    Attributes:
        handle: the driver's.
    """

    def __init__(self, device: Device, handle: ctypes.c_void_p) -> None:
        self._device, self.handle = device, handle

    def destroy(self) -> None:
        """Forget them."""
        self._device.call("cuGraphExecDestroy", self.handle)
