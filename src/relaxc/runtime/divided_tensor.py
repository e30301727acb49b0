"""A tensor on several GPUs: each has a part of it, or all have the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from relaxc.errors import OptionError
from relaxc.runtime.device_tensor import DeviceTensor


class DividedTensor:
    """An output of a model that several GPUs compute, or an input that was put there.

    Attributes:
        parts: of each GPU.
        axis: along which it is divided; None: each GPU has all of it.
        shape: dimensions of the whole.
        dtype: NumPy's element type.
        addresses: of the parts.
    """

    def __init__(self, parts: Sequence[DeviceTensor], axis: int | None) -> None:
        self.parts = list(parts)
        self.axis = axis
        self.dtype = parts[0].dtype
        self.addresses = tuple([part.address for part in parts])
        dims = list(parts[0].shape)
        if axis is not None:
            dims[axis] *= len(self.parts)
        self.shape = tuple(dims)

    @property
    def nbytes(self) -> int:
        """Size of the whole in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """Copy it to the host."""
        if self.axis is None:
            return self.parts[0].numpy()
        return np.concatenate([part.numpy() for part in self.parts], self.axis)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._whole().__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        """Of what the first GPU has.

        Raises:
            OptionError: that is a part only.
        """
        return self._whole().__dlpack__(**options)

    def _whole(self) -> DeviceTensor:
        if self.axis is not None:
            raise OptionError(
                f"the tensor is divided among {len(self.parts)} GPUs along axis {self.axis}; "
                "take its `parts`, or `numpy()`"
            )
        return self.parts[0]
