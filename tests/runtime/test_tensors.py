"""Arrays and DLPack tensors in and out."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm_ffi

from relaxc.runtime.ffi import DLTensor
from relaxc.runtime.tensors import aligned_empty, as_array, to_array, to_tensor

F32, BF16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)


class Foreign:
    """A tensor of another library."""

    def __init__(self, tensor: Any, device: int = 1) -> None:
        self.tensor = tensor
        self.device = device

    def __dlpack__(self, **_options: object) -> object:
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0)


def test_memory_is_aligned() -> None:
    for shape in ((), (1,), (3, 5)):
        array = aligned_empty(shape, F32)
        assert array.ctypes.data % 64 == 0
        assert array.shape == shape
    assert aligned_empty((0, 4), F32).shape == (0, 4)


def test_aligned_arrays_are_not_copied() -> None:
    array = aligned_empty((4, 4), F32)
    tensor, owner = to_tensor(array)
    assert owner is array
    assert tensor.dl_tensor.data == array.ctypes.data


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3, 4)])
def test_there_and_back(dtype: str, shape: tuple[int, ...]) -> None:
    known = np.dtype(getattr(ml_dtypes, dtype)) if hasattr(ml_dtypes, dtype) else np.dtype(dtype)
    array = np.ones(shape, known)
    tensor, _owner = to_tensor(array)
    result = to_array(tensor, known)
    assert result.shape == shape
    assert result.dtype == known
    np.testing.assert_array_equal(result, array)


def test_dlpack_tensors_are_viewed() -> None:
    array = aligned_empty((2, 2), F32)
    seen = as_array(tvm_ffi.from_dlpack(array), F32)
    assert seen.ctypes.data == array.ctypes.data


class Bits16AsBfloat16:
    """Exports 16-bit integers under the type of bfloat16, as PyTorch would."""

    def __init__(self, array: np.ndarray) -> None:
        self.tensor = tvm_ffi.from_dlpack(array)

    def __dlpack__(self) -> object:
        capsule = self.tensor.__dlpack__()
        locate = ctypes.pythonapi.PyCapsule_GetPointer
        locate.restype, locate.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        DLTensor.from_address(locate(capsule, b"dltensor")).code = 4
        return capsule


def test_bfloat16_tensors_which_numpy_cannot_read() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3).astype(BF16)
    seen = as_array(Foreign(Bits16AsBfloat16(values.view(np.int16))), BF16)
    assert seen.dtype == BF16
    np.testing.assert_array_equal(seen, values)


def test_tensors_on_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="lives on another device; move it to the CPU first"):
        as_array(Foreign(None, device=2), F32)


def test_numbers_take_the_dtype_that_is_wanted() -> None:
    assert as_array(3, F32).dtype == F32
    assert as_array([1, 2], F32).dtype == F32
    with pytest.raises(ValueError, match="Cannot cast"):
        as_array([1.5], np.dtype(np.int64))
