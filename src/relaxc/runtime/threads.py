"""How many threads a run uses, so that concurrent models never oversubscribe the cores.

The calling thread always works itself; the loops of its kernels are joined by idle workers of one
process-wide pool (targets/llvm/threadpool.c). So it is enough to bound the callers: at most one
per core runs at a time, the others wait their turn.
"""

from __future__ import annotations

import os
import threading

from relaxc import cpu
from relaxc.errors import OptionError

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
