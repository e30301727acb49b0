"""The memory that a thread's signal handlers run on.

OpenVINO gives the thread that compiles a model such memory, and unmaps it when the model goes: the
next signal, as of Ctrl-C, would end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator


class SignalStack(ctypes.Structure):
    """C's `stack_t`."""

    _fields_ = [
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    ]


def signal_stack() -> SignalStack:
    """This thread's."""
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack


@contextlib.contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give this thread back at the end what it had in the beginning."""
    stack = signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)
