"""A model's weights: mapped from the artifact, handed to every call, never handed out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from relaxc.artifact import Artifact
from relaxc.runtime import ffi
from relaxc.runtime.tensors import to_tensor


class Weights:
    """Arguments of the compiled function, which follow the inputs."""

    def __init__(self, artifact: Artifact) -> None:
        self._arrays = artifact.weights()
        self._tensors = [to_tensor(array)[0] for array in self._arrays]
        self._template = _values(self._tensors)
        mapped = np.frombuffer(artifact.data, np.uint8)
        # Where the weights lie: (address, size in bytes).
        self.spans = [(mapped.ctypes.data, mapped.nbytes)]

    def arguments(
        self, inputs: Sequence[ffi.Object], workspace: Sequence[ffi.Object]
    ) -> ctypes.Array[ffi.Value]:
        """Inputs, weights and workspace as one argument list."""
        count = len(inputs) + len(self._tensors) + len(workspace)
        return (ffi.Value * count).from_buffer_copy(
            _values(inputs) + self._template + _values(workspace)
        )


def _values(tensors: Sequence[ffi.Object]) -> bytes:
    return bytes((ffi.Value * len(tensors))(*(tensor.value for tensor in tensors)))
