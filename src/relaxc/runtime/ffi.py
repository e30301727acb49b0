"""The few calls of TVM's C ABI that running a model takes, through ctypes.

The `tvm_ffi` package offers the same and more, but importing it takes longer than loading a small
model does, and a second or two where torch is installed, which it imports. Only its library is
used here; programs that import `tvm_ffi` or `tvm` as well share it with us.

Reference: tvm/ffi/c_api.h of apache-tvm-ffi 0.1.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from relaxc.errors import TargetError

NONE, _INT, _BOOL, _DTYPE, _DEVICE, _RAW_STRING = 0, 1, 2, 5, 6, 8
_ERROR, _FUNCTION, TENSOR, _ARRAY, _MODULE = 67, 68, 70, 71, 73
# Every object starts with its reference counts, its type and its deleter.
_HEADER_BYTES = 24
# DLPack's device types.
CPU, CUDA = 1, 2


class Value(ctypes.Structure):
    """TVMFFIAny: a type index and eight bytes."""

    _fields_ = (
        ("type_index", ctypes.c_int32),
        ("padding", ctypes.c_uint32),
        ("payload", ctypes.c_int64),
    )


class DLTensor(ctypes.Structure):
    """DLPack's description of a tensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Bytes(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))

    def text(self) -> str:
        return ctypes.string_at(self.data, self.size).decode(errors="replace")


class _ErrorCell(ctypes.Structure):
    _fields_ = (("kind", _Bytes), ("message", _Bytes))


class _Sequence(ctypes.Structure):
    _fields_ = (("data", ctypes.POINTER(Value)), ("size", ctypes.c_int64))


class FfiError(Exception):
    """An error that compiled code or TVM's runtime reported."""


class Object:
    """A reference to an object of TVM's runtime."""

    def __init__(self, handle: int, type_index: int) -> None:
        self.handle = handle
        self.type_index = type_index
        self._release = library().TVMFFIObjectDecRef

    def __del__(self) -> None:
        self._release(self.handle)

    @property
    def value(self) -> Value:
        """This object as an argument."""
        return Value(self.type_index, 0, self.handle)

    @property
    def dl_tensor(self) -> DLTensor:
        """The contents of a tensor; valid as long as this object lives."""
        return DLTensor.from_address(self.handle + _HEADER_BYTES)

    def __getitem__(self, name: str) -> Object:
        """A function of a module."""
        function = global_function("ffi.ModuleGetFunction")
        assert function is not None
        found = call(function, self, name, False)
        if not isinstance(found, Object):
            raise FfiError(f"the module has no function `{name}`")
        return found


@functools.cache
def library() -> ctypes.CDLL:
    """The shared library of apache-tvm-ffi.

    Raises:
        TargetError: the package is not installed.
    """
    spec = importlib.util.find_spec("tvm_ffi")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    paths = [p for p in (Path(f, "lib", "libtvm_ffi.so") for f in folders) if p.is_file()]
    if not paths:
        raise TargetError("the package `apache-tvm-ffi` is missing; run `pip install relaxc`")
    lib = ctypes.CDLL(str(paths[0]), mode=ctypes.RTLD_GLOBAL)
    handle, values = ctypes.c_void_p, ctypes.POINTER(Value)
    lib.TVMFFIObjectDecRef.argtypes = [handle]
    lib.TVMFFIObjectIncRef.argtypes = [handle]
    lib.TVMFFIFunctionGetGlobal.argtypes = [ctypes.POINTER(_Bytes), ctypes.POINTER(handle)]
    lib.TVMFFIFunctionSetGlobal.argtypes = [ctypes.POINTER(_Bytes), handle, ctypes.c_int]
    lib.TVMFFIErrorSetRaisedFromCStr.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    lib.TVMFFIErrorSetRaisedFromCStr.restype = None
    lib.TVMFFIFunctionCall.argtypes = [handle, values, ctypes.c_int32, values]
    lib.TVMFFIFunctionCreate.argtypes = [handle, handle, handle, ctypes.POINTER(handle)]
    lib.TVMFFIErrorMoveFromRaised.argtypes = [ctypes.POINTER(handle)]
    lib.TVMFFIErrorMoveFromRaised.restype = None
    flag = ctypes.c_int32
    lib.TVMFFITensorFromDLPack.argtypes = [handle, flag, flag, ctypes.POINTER(handle)]
    lib.TVMFFITensorToDLPack.argtypes = [handle, ctypes.POINTER(handle)]
    lib.TVMFFIEnvSetStream.argtypes = [flag, flag, handle, ctypes.POINTER(handle)]
    return lib


def version() -> tuple[int, int, int]:
    """The version of the ABI on this machine."""
    numbers = (ctypes.c_uint32 * 3)()
    library().TVMFFIGetVersion(ctypes.byref(numbers))
    return (numbers[0], numbers[1], numbers[2])


def global_function(name: str) -> Object | None:
    """A function that a library registered, or None."""
    text = name.encode()
    handle = ctypes.c_void_p()
    key = _Bytes(ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p), len(text))
    _check(library().TVMFFIFunctionGetGlobal(ctypes.byref(key), ctypes.byref(handle)))
    return None if handle.value is None else Object(handle.value, _FUNCTION)


def set_global_function(name: str, function: Object) -> None:
    """Register a function for compiled code to find; one of the same name is replaced."""
    text = name.encode()
    key = _Bytes(ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p), len(text))
    _check(library().TVMFFIFunctionSetGlobal(ctypes.byref(key), function.handle, 1))


def raise_in_caller(kind: str, message: str) -> None:
    """Leave an error for the caller of the function that runs now, which must then return -1."""
    library().TVMFFIErrorSetRaisedFromCStr(kind.encode(), message.encode())


def borrowed(value: Value) -> Object:
    """An argument that is an object, kept alive by the result as well."""
    library().TVMFFIObjectIncRef(value.payload)
    return Object(value.payload, value.type_index)


def is_unique(found: Object) -> bool:
    """Whether nobody but `found` refers to its object."""
    return (ctypes.c_uint64.from_address(found.handle).value & 0xFFFFFFFF) == 1


@contextlib.contextmanager
def current_stream(kind: int, index: int, stream: ctypes.c_void_p) -> Iterator[None]:
    """Let compiled code that this thread runs use a stream of a device."""
    before = ctypes.c_void_p()
    _check(library().TVMFFIEnvSetStream(kind, index, stream, ctypes.byref(before)))
    try:
        yield
    finally:
        _check(library().TVMFFIEnvSetStream(kind, index, before, None))


def give(result: Any, found: Object) -> None:
    """Return an object from a function that compiled code calls."""
    library().TVMFFIObjectIncRef(found.handle)
    result[0] = found.value


def array(items: Sequence[Object]) -> Object:
    """An array of objects, as the virtual machine has for tuples."""
    make = global_function("ffi.Array")
    assert make is not None
    made = _invoked(make, (Value * len(items))(*(item.value for item in items)), None)
    return Object(made.payload, made.type_index)


def c_function(code: ctypes.c_void_p, context: int) -> Object:
    """A function over code in C of type `TVMFFISafeCallType`.

    Args:
        code: the C function.
        context: address that it gets as its first argument, valid as long as it may be called.
    """
    handle = ctypes.c_void_p()
    _check(library().TVMFFIFunctionCreate(context, code, None, ctypes.byref(handle)))
    assert handle.value is not None
    return Object(handle.value, _FUNCTION)


def load_module(path: Path) -> Object:
    """Load a compiled module.

    Raises:
        FfiError: the file is not a module that this machine can load.
    """
    load, keep = (global_function(f"ffi.Module{n}") for n in ("LoadFromFile", "GlobalsAdd"))
    assert load is not None
    module = call(load, str(path))
    if keep is not None:  # tensors may outlive us, and their deleters lie in the library
        call(keep, module)
    assert isinstance(module, Object)
    return module


def call(function: Object, *args: Object | str | int | bool) -> Any:
    """Call a function with a few arguments."""
    texts = [arg.encode() if isinstance(arg, str) else b"" for arg in args]
    values = [_argument(arg, text) for arg, text in zip(args, texts)]
    return invoke(function, (Value * len(args))(*values))


def invoke(
    function: Object, values: ctypes.Array[Value], caller: Callable[..., int] | None = None
) -> Any:
    """Call a function with prepared arguments; the GIL is released meanwhile.

    Args:
        function: what to call.
        values: its arguments.
        caller: takes the place of `TVMFFIFunctionCall`.
    """
    return _result(_invoked(function, values, caller))


def _invoked(
    function: Object, values: ctypes.Array[Value], caller: Callable[..., int] | None
) -> Value:
    result = Value()
    caller = caller or library().TVMFFIFunctionCall
    _check(caller(function.handle, values, len(values), ctypes.byref(result)))
    return result


def tensor(
    data: int, shape: Sequence[int], code: int, bits: int, device: tuple[int, int] = (CPU, 0)
) -> Object:
    """A tensor over the caller's memory, which must stay alive while compiled code may read it."""
    header_bytes = 64 + 8 * len(shape)
    return _described(_libc().malloc(header_bytes), data, shape, code, bits, device)


def new_tensor(
    shape: Sequence[int], code: int, bits: int, size_bytes: int, alignment: int
) -> Object:
    """A tensor on the CPU with memory of its own, uninitialized."""
    header_bytes = 64 + 8 * len(shape)
    block = _libc().malloc(header_bytes + alignment + size_bytes)
    data = -(-(block + header_bytes) // alignment) * alignment
    return _described(block, data, shape, code, bits, (CPU, 0))


def _described(
    block: int, data: int, shape: Sequence[int], code: int, bits: int, device: tuple[int, int]
) -> Object:
    """Write a `DLManagedTensor` to the beginning of `block`, which dies with the tensor."""
    rank = len(shape)
    header = struct.pack(
        "=QiiiBBHQQQQQ",
        *(data, *device, rank, code, bits, 1, block + 64, 0, 0, 0),
        # DLPack's deleter gets the block itself: the C library's `free` is all it takes.
        ctypes.cast(_libc().free, ctypes.c_void_p).value,
    )
    ctypes.memmove(block, header + struct.pack(f"={rank}q", *shape), 64 + 8 * rank)
    return from_dlpack(block)


def from_dlpack(managed: int) -> Object:
    """A tensor that takes over a `DLManagedTensor`, given by its address."""
    handle = ctypes.c_void_p()
    _check(library().TVMFFITensorFromDLPack(managed, 0, 0, ctypes.byref(handle)))
    assert handle.value is not None
    return Object(handle.value, TENSOR)


def to_dlpack(tensor: Object) -> int:
    """The address of a new `DLManagedTensor` that keeps the tensor's memory alive."""
    managed = ctypes.c_void_p()
    _check(library().TVMFFITensorToDLPack(tensor.handle, ctypes.byref(managed)))
    assert managed.value is not None
    return managed.value


def free_dlpack(managed: int) -> None:
    """Free a `DLManagedTensor` that nobody took over."""
    # It holds a tensor, a context and the deleter.
    address = ctypes.c_void_p.from_address(managed + ctypes.sizeof(DLTensor) + 8).value
    if address is not None:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(managed)


def dtype_value(code: int, bits: int) -> Value:
    """An element type as an argument."""
    return Value(_DTYPE, 0, code | bits << 8 | 1 << 16)


def device_value(kind: int, index: int) -> Value:
    """A device as an argument."""
    return Value(_DEVICE, 0, kind | index << 32)


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    return libc


def _argument(arg: Object | str | int | bool, text: bytes) -> Value:
    if isinstance(arg, Object):
        return arg.value
    if isinstance(arg, str):
        return Value(_RAW_STRING, 0, ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value)
    return Value(_BOOL if isinstance(arg, bool) else _INT, 0, int(arg))


def _result(value: Value) -> Any:
    if value.type_index < _ERROR:
        return None if value.type_index == NONE else value.payload
    whole = Object(value.payload, value.type_index)
    if value.type_index != _ARRAY:
        return whole
    cell = _Sequence.from_address(whole.handle + _HEADER_BYTES)
    items = [cell.data[i] for i in range(cell.size)]
    for item in items:
        library().TVMFFIObjectIncRef(item.payload)
    return [Object(item.payload, item.type_index) for item in items]


def _check(status: int) -> None:
    if status == 0:
        return
    handle = ctypes.c_void_p()
    library().TVMFFIErrorMoveFromRaised(ctypes.byref(handle))
    if handle.value is None:
        raise FfiError("unknown error")
    error = Object(handle.value, _ERROR)
    cell = _ErrorCell.from_address(error.handle + _HEADER_BYTES)
    raise FfiError(f"{cell.kind.text()}: {cell.message.text()}")
