"""When each call of a virtual machine began and how long it took.

Normal runs know nothing of it: a machine that is profiled is a machine of its own.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from relaxc.runtime import ffi

_NAME_BYTES = 112
# Names of functions that are longer are cut off.
NAME_LENGTH = _NAME_BYTES - 1
_HEADER_BYTES = 16
_CAPACITY = 1 << 12


class _Event(ctypes.Structure):
    """event_t of targets/llvm/profiler.c."""

    _fields_ = (
        ("ns", ctypes.c_int64),
        ("is_end", ctypes.c_int64),
        ("name", ctypes.c_char * _NAME_BYTES),
    )


@dataclass(frozen=True)
class TimedCall:
    """One call that the virtual machine made.

    Attributes:
        name: the kernel's, or that of a function of TVM's runtime: `vm.builtin...`.
        seconds: it took.
    """

    name: str
    seconds: float


@dataclass(frozen=True)
class TimedRun:
    """One inference.

    Attributes:
        calls: in order; of nested ones the innermost only.
        seconds: from the first call's begin to the last one's end.
    """

    calls: list[TimedCall]
    seconds: float


class Profiler:
    """Watches one virtual machine.

    Args:
        vm: the machine.
        library: `profiler.so` of the artifact.
    """

    def __init__(self, vm: ffi.Object, library: ctypes.CDLL) -> None:
        self._vm = vm
        self._note = ctypes.cast(library.relaxc_profiler_note, ctypes.c_void_p)
        self._log: ctypes.Array[ctypes.c_char] | None = None
        self._attach(_CAPACITY)

    def start(self) -> None:
        """Forget what was noted, and make room for as much again."""
        counted = self._counter().value
        if counted > self._capacity:
            self._attach(2 * counted)
        self._counter().value = 0

    @property
    def is_complete(self) -> bool:
        """Whether there was room for all calls since `start`."""
        return self._counter().value <= self._capacity

    def timed_run(self) -> TimedRun:
        """The inference since `start`."""
        assert self._log is not None
        count = min(self._counter().value, self._capacity)
        events = (_Event * count).from_buffer(self._log, _HEADER_BYTES)
        calls = []
        for begin, end in zip(events, events[1:]):
            if not begin.is_end and end.is_end:
                name = begin.name.decode(errors="replace")
                calls.append(TimedCall(name, (end.ns - begin.ns) * 1e-9))
        seconds = (events[-1].ns - events[0].ns) * 1e-9 if count else 0.0
        return TimedRun(calls, seconds)

    def _attach(self, capacity: int) -> None:
        """Hand the machine an instrument that writes to a new log."""
        self._capacity = capacity
        size = _HEADER_BYTES + capacity * ctypes.sizeof(_Event)
        log = ctypes.create_string_buffer(size)
        ctypes.c_int64.from_buffer(log, 0).value = capacity
        instrument = ffi.c_function(self._note, ctypes.addressof(log))
        ffi.call(self._vm["set_instrument"], instrument)
        self._log = log  # the one before may go now

    def _counter(self) -> ctypes.c_int64:
        assert self._log is not None
        return ctypes.c_int64.from_buffer(self._log, 8)
