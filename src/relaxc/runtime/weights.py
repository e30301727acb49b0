"""A model's weights: mapped from the artifact, handed to every call, never handed out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from relaxc.artifact import Artifact
from relaxc.runtime import ffi
from relaxc.runtime.tensors import to_tensor


class Weights:
    """The last arguments of the compiled function, which follow the inputs."""

    def __init__(self, artifact: Artifact) -> None:
        self._arrays = artifact.weights()
        self._tensors = [to_tensor(array)[0] for array in self._arrays]
        values = (ffi.Value * len(self._tensors))(*(tensor.value for tensor in self._tensors))
        self._template = bytes(values)
        mapped = np.frombuffer(artifact.data, np.uint8)
        # Where the weights lie: (address, size in bytes).
        self.spans = [(mapped.ctypes.data, mapped.nbytes)]

    def arguments(self, inputs: Sequence[ffi.Object]) -> ctypes.Array[ffi.Value]:
        """Inputs and weights as one argument list."""
        leading = bytes((ffi.Value * len(inputs))(*(tensor.value for tensor in inputs)))
        count = len(inputs) + len(self._tensors)
        return (ffi.Value * count).from_buffer_copy(leading + self._template)
