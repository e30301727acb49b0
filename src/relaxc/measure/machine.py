"""What this machine is and does at the moment, for the headers of measurements."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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
