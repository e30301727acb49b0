"""How many threads a run uses, so that concurrent models never oversubscribe the cores.

The calling thread always works itself; the loops of its kernels are joined by idle workers of one
process-wide pool (targets/llvm/threadpool.c). Callers are bounded here: at most one per core runs
at a time, the others wait their turn. Workers are bounded by the pool: they join only while fewer
threads compute than there are cores, and make way for a caller that comes later.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable

from relaxc import cpu
from relaxc.errors import OptionError
from relaxc.runtime import ffi

_gate = threading.BoundedSemaphore(cpu.available_cores())


def _renew_gate() -> None:
    """In a forked child, callers of the parent that held the gate do not exist any more."""
    global _gate
    _gate = threading.BoundedSemaphore(cpu.available_cores())


os.register_at_fork(after_in_child=_renew_gate)


def gate() -> threading.BoundedSemaphore:
    """The process-wide bound on callers that compute at the same time."""
    return _gate


def resolve_threads(threads: int | None) -> int:
    """The number of threads to use: as asked, else one per available physical core."""
    if threads is None:
        return cpu.available_cores()
    if threads < 1:
        raise OptionError(f"threads must be at least 1, not {threads}")
    return threads


def pool_caller(pool: ctypes.CDLL, threads: int) -> Callable[..., int]:
    """Stands in for `TVMFFIFunctionCall`: parallel loops of the callee use so many threads."""
    call = ctypes.cast(ffi.library().TVMFFIFunctionCall, ctypes.c_void_p)
    return functools.partial(
        pool.relaxc_pool_call, threads, max(threads, cpu.available_cores()), call
    )
