"""Tensors in a GPU's memory, exchanged by DLPack with torch, CuPy and others, without copies.

Reference: https://dmlc.github.io/dlpack/latest/python_spec.html
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from relaxc.artifact import numpy_dtype
from relaxc.runtime import ffi
from relaxc.runtime.cuda import Gpu
from relaxc.runtime.tensors import dlpack_type

# Kernels load vectors of 16 bytes.
_ALIGNMENT = 16
_DEFAULT_STREAM = 1
_NAME, _USED = b"dltensor", b"used_dltensor"


class DeviceTensor:
    """An output of a model on a GPU, or an input that was put there.

    Attributes:
        shape: dimensions.
        dtype: NumPy's element type.
    """

    def __init__(self, tensor: ffi.Object, dtype: np.dtype[Any], gpu: Gpu) -> None:
        self.tensor = tensor
        self.dtype = dtype
        self._gpu = gpu
        described = tensor.dl_tensor
        self.shape = tuple(described.shape[axis] for axis in range(described.ndim))
        self.address = (described.data or 0) + described.byte_offset

    def again(self, tensor: ffi.Object) -> DeviceTensor:
        """The same of another reference to the memory."""
        other = DeviceTensor.__new__(DeviceTensor)
        other.__dict__.update(self.__dict__)
        other.tensor = tensor
        return other

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """Copy it to the host."""
        array = np.empty(self.shape, self.dtype)
        self._gpu.activate()
        self._gpu.download(array, self.address)
        self._gpu.synchronize()
        return array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (ffi.CUDA, self._gpu.index)

    def __dlpack__(self, *, stream: int | None = None, **_options: Any) -> Any:
        """A DLPack capsule; the tensor's contents are ready for use on `stream`."""
        if stream not in (None, 0, _DEFAULT_STREAM, -1):
            self._gpu.activate()
            self._gpu.synchronize()
        managed = ffi.to_dlpack(self.tensor)
        return _api().PyCapsule_New(managed, _NAME, _release)


def import_tensor(value: Any, gpu: Gpu) -> DeviceTensor:
    """Take over a tensor of another library.

    Raises:
        ValueError: it lies elsewhere, or not compactly.
    """
    if isinstance(value, DeviceTensor):
        found = value
    else:
        capsule = value.__dlpack__(stream=_DEFAULT_STREAM)
        managed = _api().PyCapsule_GetPointer(capsule, _NAME)
        described = ffi.DLTensor.from_address(managed)
        if not _is_compact(described):
            raise ValueError("the tensor is not contiguous; make it so first")
        dtype = _dtype_of(described)
        tensor = ffi.from_dlpack(managed)
        _api().PyCapsule_SetName(capsule, _USED)
        found = DeviceTensor(tensor, dtype, gpu)
    if found.tensor.dl_tensor.device_id != gpu.index:
        raise ValueError(f"the tensor lies on another GPU than {gpu.index}, where the model is")
    if found.address % _ALIGNMENT:
        raise ValueError(f"the tensor does not begin at a multiple of {_ALIGNMENT} bytes; copy it")
    return found


def _is_compact(described: ffi.DLTensor) -> bool:
    if not described.strides:
        return True
    expected = 1
    for axis in reversed(range(described.ndim)):
        size = described.shape[axis]
        if size != 1 and described.strides[axis] != expected:
            return False
        expected *= size
    return True


_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


def _dtype_of(described: ffi.DLTensor) -> np.dtype[Any]:
    kind = _KINDS.get(described.code)
    if kind is None or described.lanes != 1:
        raise ValueError(f"the tensor has a dtype that is not supported (DLPack {described.code})")
    return numpy_dtype("bool" if kind == "bool" else f"{kind}{described.bits}")


def empty_like(shape: tuple[int, ...], dtype: np.dtype[Any], gpu: Gpu) -> DeviceTensor:
    """An uninitialized tensor on a GPU."""
    return DeviceTensor(gpu.empty(shape, *dlpack_type(dtype)), dtype, gpu)


def _api() -> Any:
    api = ctypes.pythonapi
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return api


def _release_unused(capsule: int) -> None:
    """Free what nobody took out of a capsule; a pointer, since the capsule is dying."""
    held = ctypes.cast(capsule, ctypes.c_void_p)
    valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
    if valid(("PyCapsule_IsValid", ctypes.pythonapi))(held, _NAME):
        locate = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
        ffi.free_dlpack(locate(("PyCapsule_GetPointer", ctypes.pythonapi))(held, _NAME))


_release = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_release_unused)
