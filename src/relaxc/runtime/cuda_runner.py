"""One virtual machine on a GPU, and its weights there: serves one call at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from relaxc.artifact import WEIGHTS, Artifact
from relaxc.runtime import ffi
from relaxc.runtime.cuda import Gpu
from relaxc.runtime.cuda_graph import Recorder
from relaxc.runtime.device_tensor import DeviceTensor, empty_like, import_tensor
from relaxc.runtime.runner import POOLED_ALLOCATOR
from relaxc.runtime.tensors import as_array, dlpack_type


class CudaWeights:
    """A model's weights on a GPU: one block of memory, filled by one copy."""

    def __init__(self, artifact: Artifact, gpu: Gpu) -> None:
        self._tensors: list[ffi.Object] = []
        self.span = (0, 0)
        arrays = artifact.weights()
        if arrays:
            whole = np.frombuffer(artifact.member(WEIGHTS), np.uint8)
            self._block = empty_like(whole.shape, whole.dtype, gpu)
            gpu.upload(self._block.address, whole)
            self.span = (self._block.address, whole.nbytes)
        for array, entry in zip(arrays, artifact.manifest["weights"]):
            address = self.span[0] + int(entry["offset"])
            code, bits = dlpack_type(array.dtype)
            place = (ffi.CUDA, gpu.index)
            self._tensors.append(ffi.tensor(address, array.shape, code, bits, place))
        self.values = [tensor.value for tensor in self._tensors]


class CudaEngine:
    """A model on a GPU: makes the runners that serve calls, which share the weights."""

    def __init__(
        self, artifact: Artifact, module: ffi.Object, outputs: Sequence[np.dtype[Any]], gpu: Gpu
    ) -> None:
        self._module = module
        self._weights = CudaWeights(artifact, gpu)
        self._outputs = outputs
        self._gpu = gpu
        self._is_replayable = bool(artifact.manifest["requirements"]["cuda"].get("replayable"))

    def new_runner(self) -> CudaRunner:
        """A virtual machine of its own."""
        vm = new_machine(self._module, self._gpu)
        recorder = Recorder(self._gpu) if self._is_replayable else None
        return CudaRunner(vm["main"], self._weights, self._outputs, self._gpu, recorder)

    def as_input(self, value: Any, dtype: np.dtype[Any]) -> np.ndarray | DeviceTensor:
        """What a runner takes: an array, or a tensor that lies on the GPU already.

        Raises:
            ValueError: the value cannot be viewed as one of these.
        """
        place = getattr(value, "__dlpack_device__", None)
        if place is not None and place()[0] == ffi.CUDA:
            return import_tensor(value, self._gpu)
        return as_array(value, dtype)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        self._gpu.activate()
        self._gpu.synchronize()

    def put(self, array: np.ndarray, _name: str | None) -> DeviceTensor:
        """Copy an array to the GPU."""
        self._gpu.activate()
        tensor = empty_like(array.shape, array.dtype, self._gpu)
        self._gpu.upload(tensor.address, np.ascontiguousarray(array))
        return tensor


def new_machine(module: ffi.Object, gpu: Gpu) -> ffi.Object:
    """A virtual machine on a GPU; the CPU is its second device, for shapes."""
    vm: ffi.Object = ffi.call(module["vm_load_executable"])
    devices = (ffi.CUDA, gpu.index, POOLED_ALLOCATOR, ffi.CPU, 0, POOLED_ALLOCATOR)
    ffi.call(vm["vm_initialization"], *devices)
    return vm


class CudaRunner:
    """Runs `main` of a virtual machine on a GPU."""

    def __init__(
        self,
        main: ffi.Object,
        weights: CudaWeights,
        outputs: Sequence[np.dtype[Any]],
        gpu: Gpu,
        recorder: Recorder | None,
    ) -> None:
        self._recorder = recorder
        self._main = main
        self._weights = weights
        self._outputs = outputs
        self._gpu = gpu
        self._shapes: list[tuple[int, ...]] | None = None
        self._buffers: list[DeviceTensor] = []
        self._values: ctypes.Array[ffi.Value] = (ffi.Value * 0)()

    def run(self, inputs: Sequence[np.ndarray | DeviceTensor]) -> list[Any]:
        """Run on inputs of the right dtypes and shapes.

        Returns:
            Device tensors if any input is one, else arrays.

        Raises:
            FfiError: compiled code or CUDA reports an error.
        """
        handed = self._hand_over(inputs)
        spans = self._spans(handed)
        if self._recorder is None:
            results = self._invoke()
        else:
            results = self._recorder.run(tuple(t.address for t in handed), self._invoke)
        outputs = [DeviceTensor(t, d, self._gpu) for t, d in zip(results, self._outputs)]
        if self._recorder is not None and any(is_within(o, spans) for o in outputs):
            self._recorder.works = False  # an input can be no result of a graph
        if any(isinstance(value, DeviceTensor) for value in inputs):
            return [self._detached(output, spans) for output in outputs]
        arrays = [np.empty(output.shape, output.dtype) for output in outputs]
        for array, output in zip(arrays, outputs):
            self._gpu.download(array, output.address)
        self._gpu.synchronize()
        return arrays

    def _hand_over(self, inputs: Sequence[np.ndarray | DeviceTensor]) -> list[DeviceTensor]:
        """Set the arguments of the next call."""
        self._gpu.activate()
        if [value.shape for value in inputs] != self._shapes:
            self._prepare(inputs)
        handed = self._handed(inputs)
        for value, tensor in zip(self._values, handed):
            value.payload = tensor.tensor.handle
        return handed

    def _spans(self, handed: Sequence[DeviceTensor]) -> list[tuple[int, int]]:
        """Where weights and inputs lie."""
        return [self._weights.span, *((t.address, t.nbytes) for t in handed)]

    def _invoke(self) -> list[ffi.Object]:
        result = ffi.invoke(self._main, self._values)
        return [result] if isinstance(result, ffi.Object) else list(result)

    def _handed(self, inputs: Sequence[np.ndarray | DeviceTensor]) -> list[DeviceTensor]:
        """The inputs on the GPU, where a graph may have been recorded for."""
        place = tuple(v.address if isinstance(v, DeviceTensor) else 0 for v in inputs)
        is_usual = self._recorder is None or self._recorder.is_usual(place)
        handed = []
        for value, buffer in zip(inputs, self._buffers):
            if not isinstance(value, DeviceTensor):
                self._gpu.upload(buffer.address, np.ascontiguousarray(value))
            elif is_usual:
                buffer = value
            else:
                self._gpu.copy(buffer.address, value.address, value.nbytes)
            handed.append(buffer)
        return handed

    def _prepare(self, inputs: Sequence[np.ndarray | DeviceTensor]) -> None:
        """Set up buffers and the argument list for inputs of new shapes."""
        self._buffers = [empty_like(v.shape, v.dtype, self._gpu) for v in inputs]
        values = [buffer.tensor.value for buffer in self._buffers] + self._weights.values
        self._values = (ffi.Value * len(values))(*values)
        self._shapes = [value.shape for value in inputs]

    def _detached(self, output: DeviceTensor, spans: Sequence[tuple[int, int]]) -> DeviceTensor:
        """The result; copied if it is an input or a weight, which nobody may change."""
        if not is_within(output, spans):
            return output
        fresh = empty_like(output.shape, output.dtype, self._gpu)
        self._gpu.copy(fresh.address, output.address, output.nbytes)
        return fresh


def is_within(tensor: DeviceTensor, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether a tensor begins in one of these stretches of memory: address and size in bytes."""
    return any(start <= tensor.address < start + size for start, size in spans)
