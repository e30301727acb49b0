"""What this machine is and does at the moment, for the headers of measurements."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relaxc import cpu


@dataclass(frozen=True)
class Machine:
    """The circumstances of a measurement.

    Attributes:
        cpu: what the CPU calls itself.
        cores: physical cores that this process may use.
        load_average: runnable threads over the last 1, 5 and 15 minutes.
    """

    cpu: str
    cores: int
    load_average: tuple[float, float, float]

    @property
    def is_busy(self) -> bool:
        """Whether other work would disturb a measurement that begins now."""
        return self.load_average[0] > 0.5 * self.cores


def this_machine() -> Machine:
    """Look around."""
    return Machine(cpu.model_name(), cpu.available_cores(), os.getloadavg())


def peak_memory_bytes() -> int:
    """The most resident memory that this process has had."""
    # Not getrusage: its maximum survives exec, and so shows the parent's.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True)
class Roofline:
    """What bounds every computation on this machine.

    Attributes:
        flops_per_s: float32 operations per second, as NumPy's matrix product reaches them.
        bytes_per_s: bytes per second read and written, as a large copy reaches them.
    """

    flops_per_s: float
    bytes_per_s: float

    def seconds(self, flops: float, size_bytes: float) -> float:
        """The least time that an operator of this much arithmetic and traffic can take."""
        return max(flops / self.flops_per_s, size_bytes / self.bytes_per_s)

    def bound(self, flops: float, size_bytes: float) -> str:
        """Which of the two the operator meets: `compute` or `memory`."""
        is_compute = flops / self.flops_per_s > size_bytes / self.bytes_per_s
        return "compute" if is_compute else "memory"


def measure_roofline() -> Roofline:
    """Measure both bounds; takes a few tenths of a second."""
    size = 768
    a, b = np.ones((size, size), np.float32), np.ones((size, size), np.float32)
    product = _best_seconds(lambda: a @ b)
    source = np.zeros(1 << 25, np.uint8)
    sink = np.empty_like(source)
    copy = _best_seconds(lambda: np.copyto(sink, source))
    return Roofline(2 * size**3 / product, 2 * source.nbytes / copy)


def _best_seconds(run: object) -> float:
    assert callable(run)
    best = float("inf")
    for _ in range(7):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
