"""One virtual machine and the memory that its inputs are copied to: serves one call at a time.

A call of a small model takes microseconds, so that what could be done once is: argument lists,
tensors over aligned buffers for inputs of the shapes seen last, and the addresses of everything
that a result might alias.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.artifact import Artifact
from relaxc.runtime import ffi
from relaxc.runtime.library import load_profiler
from relaxc.runtime.profiler import Profiler
from relaxc.runtime.tensors import (
    ALIGNMENT,
    aligned_empty,
    as_array,
    as_tensor,
    to_array,
    to_tensor,
)
from relaxc.runtime.weights import Weights
from relaxc.runtime.workspace import Workspace

# Larger inputs are handed over where they lie, if the code or their alignment allows it: a tensor
# of their own costs less than the copy.
_COPY_BYTES = 1 << 17
# TVM's number of the memory manager that keeps what a call freed for the next one.
POOLED_ALLOCATOR = 2


class CpuEngine:
    """A model on the CPU: makes the runners that serve calls, which share the weights."""

    def __init__(
        self,
        artifact: Artifact,
        module: ffi.Object,
        outputs: Sequence[np.dtype[Any]],
        caller: Callable[..., int],
    ) -> None:
        self._artifact = artifact
        self._module = module
        self._caller = caller
        self._weights = Weights(artifact)
        self._outputs = outputs

    def new_runner(self) -> Runner:
        """A virtual machine of its own."""
        return self._runner_of(self._new_machine())

    def new_profiled_runner(self, cache_dir: Path | None) -> tuple[Runner, Profiler]:
        """A virtual machine of its own, and what watches it.

        Raises:
            ArtifactError: the artifact lacks its profiler.
        """
        vm = self._new_machine()
        profiler = Profiler(vm, load_profiler(self._artifact, cache_dir))
        return self._runner_of(vm), profiler

    def _new_machine(self) -> ffi.Object:
        vm: ffi.Object = ffi.call(self._module["vm_load_executable"])
        ffi.call(vm["vm_initialization"], ffi.CPU, 0, POOLED_ALLOCATOR)
        return vm

    def _runner_of(self, vm: ffi.Object) -> Runner:
        workspace = Workspace(self._artifact.manifest["workspace"])
        anywhere = [bool(e.get("any_alignment")) for e in self._artifact.manifest["inputs"]]
        return Runner(vm["main"], self._weights, workspace, self._outputs, anywhere, self._caller)

    def as_input(self, value: Any, dtype: np.dtype[Any]) -> np.ndarray:
        """What a runner takes: an array.

        Raises:
            ValueError: the value cannot be viewed as one.
        """
        return as_array(value, dtype)


class Runner:
    """Runs `main` of a virtual machine."""

    def __init__(
        self,
        main: ffi.Object,
        weights: Weights,
        workspace: Workspace,
        outputs: Sequence[np.dtype[np.generic]],
        anywhere: Sequence[bool],
        caller: Callable[..., int],
    ) -> None:
        self._main = main
        self._anywhere = anywhere
        self._caller = caller
        self._weights = weights
        self._workspace = workspace
        self._outputs = outputs
        self._shapes: list[tuple[int, ...]] | None = None
        self._buffers: list[np.ndarray] = []
        self._tensors: list[ffi.Object] = []
        self._addresses: list[int] = []
        # Where inputs lay that were handed over: many callers fill the same arrays again.
        self._handed: list[tuple[int, ffi.Object]] = []
        self._values: ctypes.Array[ffi.Value] = (ffi.Value * 0)()

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on inputs of the right dtypes and shapes.

        Raises:
            FfiError: compiled code reports an error.
        """
        if [array.shape for array in arrays] != self._shapes:
            self._prepare(arrays)
        spans = [*self._weights.spans, self._workspace.span]
        for i, array in enumerate(arrays):
            if array.nbytes > _COPY_BYTES and array.flags.c_contiguous:
                address = array.ctypes.data
                alignment = array.itemsize if self._anywhere[i] else ALIGNMENT
                if address % alignment == 0:
                    if address != self._handed[i][0]:
                        self._handed[i] = (address, as_tensor(array))
                    self._values[i].payload = self._handed[i][1].handle
                    spans.append((address, array.nbytes))
                    continue
            buffer = self._buffers[i]
            buffer[...] = array
            self._values[i].payload = self._tensors[i].handle
            spans.append((self._addresses[i], buffer.nbytes))
        result = ffi.invoke(self._main, self._values, self._caller)
        results = [result] if isinstance(result, ffi.Object) else result
        return [self._detached(t, dtype, spans) for t, dtype in zip(results, self._outputs)]

    def _prepare(self, arrays: Sequence[np.ndarray]) -> None:
        """Set up buffers, tensors and the argument list for inputs of new shapes."""
        self._buffers = [aligned_empty(array.shape, array.dtype) for array in arrays]
        self._tensors = [to_tensor(buffer)[0] for buffer in self._buffers]
        self._addresses = [buffer.ctypes.data for buffer in self._buffers]
        self._handed = list(zip(self._addresses, self._tensors))
        self._values = self._weights.arguments(self._tensors, self._workspace.tensors)
        self._shapes = [array.shape for array in arrays]

    @staticmethod
    def _detached(
        tensor: ffi.Object, dtype: np.dtype[np.generic], spans: Sequence[tuple[int, int]]
    ) -> np.ndarray:
        """The result as an array; copied if it lies where the next run reads or writes."""
        address = tensor.dl_tensor.data or 0
        output = to_array(tensor, dtype)
        shared = any(start <= address < start + size for start, size in spans)
        return output.copy() if shared else output
