"""Memory of intermediate results, which a virtual machine keeps from run to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from relaxc.artifact import numpy_dtype
from relaxc.errors import TargetError
from relaxc.runtime.tensors import ALIGNMENT, aligned_empty, to_tensor


class Workspace:
    """The last arguments of the compiled function: tensors that share a few storages.

    Args:
        layout: `workspace` of the manifest.

    Raises:
        TargetError: there is not as much memory.
    """

    def __init__(self, layout: Mapping[str, Any]) -> None:
        total = _total(layout["storages"])
        try:
            self._memory = aligned_empty((total,), np.dtype(np.uint8))
        except MemoryError:
            raise TargetError(
                f"the model needs {total / 2**30:.0f} GiB for intermediate results, which this "
                "machine does not have"
            ) from None
        starts = _starts(layout["storages"])
        views = [
            _view(self._memory[starts[entry["storage"]] + entry["offset"] :], entry)
            for entry in layout["tensors"]
        ]
        self.tensors = [to_tensor(view)[0] for view in views]
        # Where it lies: (address, size in bytes).
        self.span = (self._memory.ctypes.data, self._memory.nbytes)


def _starts(sizes: list[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    return starts


def _total(sizes: list[int]) -> int:
    return _starts(sizes)[-1]


def _view(memory: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    dtype = numpy_dtype(entry["dtype"])
    count = int(np.prod(entry["shape"], dtype=np.int64))
    return memory[: count * dtype.itemsize].view(dtype).reshape(entry["shape"])
