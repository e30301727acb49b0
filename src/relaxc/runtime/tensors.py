"""Between the caller's arrays and the tensors that compiled code takes, copying only if needed."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from relaxc.artifact import numpy_dtype
from relaxc.runtime import ffi

# Compiled code loads vectors with aligned moves.
ALIGNMENT = 64
# DLPack's type codes.
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_NARROW_FLOATS = {"bfloat16": 4, "float8_e4m3fn": 10, "float8_e5m2": 12}


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An uninitialized array whose data starts at a multiple of 64 bytes."""
    count = math.prod(shape)
    raw = np.empty(count * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + count * dtype.itemsize].view(dtype).reshape(shape)


def as_array(value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """View any array or DLPack tensor as a NumPy array; numbers and lists take the given dtype.

    Raises:
        ValueError: the value lives on another device, or cannot be viewed as an array.
    """
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    try:
        if not hasattr(value, "__dlpack__"):
            array = np.asarray(value)
            return array.astype(dtype, casting="same_kind", copy=False)
        if value.__dlpack_device__()[0] != ffi.CPU:
            raise ValueError("the tensor lives on another device; move it to the CPU first")
        return _from_dlpack(value)
    except (BufferError, RuntimeError, TypeError) as err:
        raise ValueError(str(err)) from err


def _from_dlpack(value: Any) -> np.ndarray:
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError):
        # NumPy reads no bfloat16: take the description out of the capsule.
        capsule = value.__dlpack__()
        locate = ctypes.pythonapi.PyCapsule_GetPointer
        locate.restype, locate.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        found = ffi.DLTensor.from_address(locate(capsule, b"dltensor"))
        names = [name for name, code in _NARROW_FLOATS.items() if code == found.code]
        if not names:
            raise
        return _strided(found, numpy_dtype(names[0]), capsule)


def to_tensor(array: np.ndarray) -> tuple[ffi.Object, np.ndarray]:
    """Hand an array to compiled code: zero-copy when contiguous and aligned.

    Returns:
        The tensor, and the array that owns its memory.
    """
    if not array.flags.c_contiguous or array.ctypes.data % ALIGNMENT:
        copy = aligned_empty(array.shape, array.dtype)
        np.copyto(copy, array)
        array = copy
    return as_tensor(array), array


def as_tensor(array: np.ndarray) -> ffi.Object:
    """Hand a contiguous array to compiled code where it lies; it must stay alive meanwhile."""
    return ffi.tensor(array.ctypes.data, array.shape, *dlpack_type(array.dtype))


def dlpack_type(dtype: np.dtype[Any]) -> tuple[int, int]:
    """DLPack's type code, and the bits of an element.

    Types that no machine computes with (float8, int4, ...) are bytes to compiled code.
    """
    if dtype.name == "bfloat16":
        return _NARROW_FLOATS["bfloat16"], 16
    is_narrow = dtype.itemsize == 1 and dtype.name not in ("int8", "uint8", "bool")
    return _CODES["u" if is_narrow else dtype.kind], dtype.itemsize * 8


def owned_tensor(array: np.ndarray) -> ffi.Object:
    """A tensor with a copy of an array, which it frees when it dies."""
    tensor = ffi.new_tensor(array.shape, *dlpack_type(array.dtype), array.nbytes, ALIGNMENT)
    np.copyto(to_array(tensor, array.dtype), array)
    return tensor


def tensor_dtype(tensor: ffi.Object) -> np.dtype[Any]:
    """NumPy's type of a tensor's elements.

    Raises:
        ValueError: NumPy has none.
    """
    described = tensor.dl_tensor
    for name, code in _NARROW_FLOATS.items():
        if described.code == code:
            return numpy_dtype(name)
    for kind, code in _CODES.items():
        if described.code == code:
            return np.dtype("bool" if kind == "b" else f"{kind}{described.bits // 8}")
    raise ValueError(f"elements of DLPack type {described.code} are not known")


def to_array(tensor: ffi.Object, dtype: np.dtype[Any]) -> np.ndarray:
    """View a result as a NumPy array, which keeps the tensor alive."""
    return _view(tensor.dl_tensor, dtype, tensor)


class _Memory:
    """Memory of someone else's, in the form that NumPy takes over without a copy."""

    def __init__(self, address: int, size: int, owner: object) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address, False),
        }


def _view(described: ffi.DLTensor, dtype: np.dtype[Any], owner: object) -> np.ndarray:
    """View a compact tensor."""
    shape = tuple(described.shape[axis] for axis in range(described.ndim))
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    memory = _Memory(described.data + described.byte_offset, size, owner)
    return np.asarray(memory).view(dtype).reshape(shape)


def _strided(described: ffi.DLTensor, dtype: np.dtype[Any], owner: object) -> np.ndarray:
    """View a tensor of any layout."""
    if not described.strides:
        return _view(described, dtype, owner)
    axes = range(described.ndim)
    shape = tuple(described.shape[axis] for axis in axes)
    strides = tuple(described.strides[axis] * dtype.itemsize for axis in axes)
    last = sum((size - 1) * stride for size, stride in zip(shape, strides))
    if 0 in shape:
        return np.empty(shape, dtype)
    memory = _Memory(described.data + described.byte_offset, last + dtype.itemsize, owner)
    flat = np.asarray(memory).view(dtype)
    return np.lib.stride_tricks.as_strided(flat, shape, strides)
