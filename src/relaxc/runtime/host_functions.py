"""Operators whose results have sizes that only their values tell, computed by NumPy on the host.

TVM computes them in its Python package, which machines that run artifacts lack. Compiled code calls
these instead, by the names under which they are registered here.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from relaxc.runtime import ffi
from relaxc.runtime.tensors import owned_tensor, tensor_dtype, to_array

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ffi.Value),
    ctypes.c_int32,
    ctypes.POINTER(ffi.Value),
)


def nonzero(x: np.ndarray) -> np.ndarray:
    """Positions of elements that are not zero: [rank, count], int64."""
    return np.stack(np.atleast_1d(x).nonzero()).astype(np.int64)


def unique(
    x: np.ndarray, is_sorted: int, index: int, inverse: int, counts: int, axis: int | None = None
) -> np.ndarray | list[np.ndarray]:
    """ONNX's Unique: values, and on demand first positions, inverse positions and counts.

    Values are in ascending order, or in the order of their first occurrence.
    """
    values, first, back, count = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    back = back.reshape(-1)
    if not is_sorted:
        order = np.argsort(first, kind="stable")
        values = np.take(values, order, axis=axis or 0)
        first, count, back = first[order], count[order], np.argsort(order)[back]
    wanted = [a for a, flag in ((first, index), (back, inverse), (count, counts)) if flag]
    found = [values, *(a.astype(np.int64) for a in wanted)]
    return found if len(found) > 1 else values


FUNCTIONS: dict[str, Callable[..., np.ndarray | list[np.ndarray]]] = {
    "relaxc.nonzero": nonzero,
    "relaxc.unique": unique,
}


@functools.cache
def register_host_functions() -> tuple[Any, ...]:
    """Make the functions known to compiled code, once per process.

    Returns:
        What must live as long as they may be called.
    """
    callbacks = []
    for name, function in FUNCTIONS.items():
        callback = _Callback(functools.partial(_call, function))
        code = ctypes.cast(callback, ctypes.c_void_p)
        ffi.set_global_function(name, ffi.c_function(code, 0))
        callbacks.append(callback)
    return tuple(callbacks)


def _call(
    function: Callable[..., np.ndarray | list[np.ndarray]],
    _context: int,
    args: Sequence[ffi.Value],
    count: int,
    result: Sequence[ffi.Value],
) -> int:
    try:
        found = function(*(_read(args[i]) for i in range(count)))
        if isinstance(found, list):
            ffi.give(result, ffi.array([owned_tensor(a) for a in found]))
        else:
            ffi.give(result, owned_tensor(found))
    except Exception as err:  # it must not unwind through the caller's frames
        ffi.raise_in_caller("RuntimeError", f"{function.__name__}: {err}")
        return -1
    return 0


def _read(value: ffi.Value) -> np.ndarray | int | None:
    if value.type_index != ffi.TENSOR:
        return None if value.type_index == ffi.NONE else int(value.payload)
    tensor = ffi.borrowed(value)
    return to_array(tensor, tensor_dtype(tensor))
