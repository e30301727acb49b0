"""One virtual machine on a GPU, and its weights there: serves one call at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from relaxc.artifact import WEIGHTS, Artifact
from relaxc.runtime import ffi
from relaxc.runtime.cuda import Gpu
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

    def new_runner(self) -> CudaRunner:
        """A virtual machine of its own; the CPU is its second device, for shapes."""
        vm = ffi.call(self._module["vm_load_executable"])
        devices = (ffi.CUDA, self._gpu.index, POOLED_ALLOCATOR, ffi.CPU, 0, POOLED_ALLOCATOR)
        ffi.call(vm["vm_initialization"], *devices)
        return CudaRunner(vm["main"], self._weights, self._outputs, self._gpu)

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
        self._gpu.synchronize()

    def put(self, array: np.ndarray) -> DeviceTensor:
        """Copy an array to the GPU."""
        tensor = empty_like(array.shape, array.dtype, self._gpu)
        self._gpu.upload(tensor.address, np.ascontiguousarray(array))
        return tensor


class CudaRunner:
    """Runs `main` of a virtual machine on a GPU."""

    def __init__(
        self,
        main: ffi.Object,
        weights: CudaWeights,
        outputs: Sequence[np.dtype[Any]],
        gpu: Gpu,
    ) -> None:
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
        self._gpu.activate()
        if [value.shape for value in inputs] != self._shapes:
            self._prepare(inputs)
        spans = [self._weights.span]
        handed: list[DeviceTensor] = []
        for i, value in enumerate(inputs):
            if isinstance(value, DeviceTensor):
                tensor = value
            else:
                tensor = self._buffers[i]
                self._gpu.upload(tensor.address, np.ascontiguousarray(value))
            handed.append(tensor)
            self._values[i].payload = tensor.tensor.handle
            spans.append((tensor.address, tensor.nbytes))
        result = ffi.invoke(self._main, self._values)
        results = [result] if isinstance(result, ffi.Object) else result
        outputs = [DeviceTensor(t, d, self._gpu) for t, d in zip(results, self._outputs)]
        if any(isinstance(value, DeviceTensor) for value in inputs):
            return [self._detached(output, spans) for output in outputs]
        arrays = [np.empty(output.shape, output.dtype) for output in outputs]
        for array, output in zip(arrays, outputs):
            self._gpu.download(array, output.address)
        self._gpu.synchronize()
        return arrays

    def _prepare(self, inputs: Sequence[np.ndarray | DeviceTensor]) -> None:
        """Set up buffers and the argument list for inputs of new shapes."""
        self._buffers = [empty_like(v.shape, v.dtype, self._gpu) for v in inputs]
        values = [buffer.tensor.value for buffer in self._buffers] + self._weights.values
        self._values = (ffi.Value * len(values))(*values)
        self._shapes = [value.shape for value in inputs]

    def _detached(self, output: DeviceTensor, spans: Sequence[tuple[int, int]]) -> DeviceTensor:
        """The result; copied if it is an input or a weight, which nobody may change."""
        if not any(start <= output.address < start + size for start, size in spans):
            return output
        fresh = empty_like(output.shape, output.dtype, self._gpu)
        self._gpu.copy(fresh.address, output.address, output.nbytes)
        return fresh
