"""ONNX element types, and how compiled code carries those that machines lack.

Types of 2, 4 and 8 bits that no CPU computes with (float8, float4, int4, ...) are carried as
`uint8`, one element per byte, holding the bit pattern. ONNX lets such tensors be moved, cast and
(de)quantized, nothing else; so it suffices to know the type where a value is cast, and moving
bytes moves the elements.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

_NAMES = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0") + (
    "FLOAT6E2M3",
    "FLOAT6E3M2",
    "FLOAT4E2M1",
    "INT4",
    "UINT4",
    "INT2",
    "UINT2",
)
# Older releases of onnx lack some.
NARROW = frozenset(getattr(TensorProto, name) for name in _NAMES if hasattr(TensorProto, name))
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_BITS |= {"FLOAT6E2M3": 6, "FLOAT6E3M2": 6}


def type_name(element: int) -> str:
    """ONNX's name of an element type, in lower case."""
    return str(TensorProto.DataType.Name(element)).lower()


def dtype_name(element: int) -> str:
    """NumPy's (or ml_dtypes') name of an element type; `object` for strings."""
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(element)).name)


def carrier(element: int) -> str:
    """The Relax dtype that carries an element type."""
    return "uint8" if element in NARROW else dtype_name(element)


def carried(array: np.ndarray) -> np.ndarray:
    """An array as compiled code carries it: bit patterns where the type is narrow."""
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    if element not in NARROW:
        return array
    return array.view(np.uint8) & np.uint8(codes(element) - 1)


def codes(element: int) -> int:
    """How many bit patterns a narrow type has."""
    return int(1 << _BITS.get(type_name(element).upper(), 8))


def values(element: int) -> np.ndarray:
    """The number that every bit pattern of a narrow type stands for, as float32."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element))
    table: np.ndarray = np.arange(codes(element), dtype=np.uint8).view(dtype).astype(np.float32)
    return table


def is_integer(element: int) -> bool:
    """Whether a narrow type holds integers."""
    return "INT" in type_name(element).upper()
