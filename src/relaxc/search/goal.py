"""What an artifact has to keep, and to be."""

from __future__ import annotations

import re
from dataclasses import dataclass

from relaxc.errors import OptionError


@dataclass(frozen=True)
class MaxDrop:
    """The accuracy that may be lost.

    Attributes:
        amount: relative to the float model's score, or in its unit.
        is_relative: which of the two.
    """

    amount: float = 0.01
    is_relative: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.amount < float("inf"):
            raise OptionError(f"the accuracy that may be lost must not be negative: {self.amount}")
        if self.is_relative and self.amount >= 1:
            raise OptionError(
                f"the accuracy that may be lost must be below 100 % of the float model's score, "
                f"not {self}"
            )

    @classmethod
    def parse(cls, text: str) -> MaxDrop:
        """Read `1%` (of the float model's score) or `0.5pt` (hundredths of the metric's unit).

        Raises:
            OptionError: it is neither.
        """
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|pt)\s*", text)
        if found is None:
            raise OptionError(
                f"cannot read `{text}` as a drop; write `1%` (of the float model's score) or "
                "`0.5pt` (0.005 of the metric)"
            )
        return cls(float(found[1]) / 100, found[2] == "%")

    def allowed(self, base: float) -> float:
        """The largest loss of score that is allowed where the float model has `base`."""
        return self.amount * abs(base) if self.is_relative else self.amount

    def __str__(self) -> str:
        return f"{self.amount * 100:g}{'%' if self.is_relative else 'pt'}"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """All that an artifact has to meet; among those that do, the fastest wins.

    Attributes:
        max_drop: the accuracy that may be lost.
        max_latency_ms: the median latency at most; None is no limit.
        max_size_bytes: the artifact's size at most; None is no limit.
    """

    max_drop: MaxDrop = MaxDrop()
    max_latency_ms: float | None = None
    max_size_bytes: float | None = None

    def __post_init__(self) -> None:
        for limit in (self.max_latency_ms, self.max_size_bytes):
            if limit is not None and not 0 < limit < float("inf"):
                raise OptionError("limits of latency and size must be positive numbers")


_SIZES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TIMES_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_DURATIONS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(text: str) -> float:
    """Bytes from `10MB`, `512 KiB` or a plain number.

    Raises:
        OptionError: it is no size.
    """
    return _parse(text, _SIZES, "size", "10MB")


def parse_latency(text: str) -> float:
    """Milliseconds from `5ms`, `800us` or `1s`.

    Raises:
        OptionError: it is no time.
    """
    return _parse(text, _TIMES_MS, "latency", "5ms")


def parse_duration(text: str) -> float:
    """Seconds from `90s`, `30m` or `2h`.

    Raises:
        OptionError: it is no duration.
    """
    return _parse(text, _DURATIONS_S, "duration", "30m")


def _parse(text: str, units: dict[str, float], what: str, example: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].lower() not in units:
        raise OptionError(f"cannot read `{text}` as a {what}; write for example `{example}`")
    return float(found[1]) * units[found[2].lower()]
