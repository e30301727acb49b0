"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def size(count: float) -> str:
    """Bytes with a decimal unit: `3.52 MB`."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def count(number: float) -> str:
    """A large number with a suffix: `786.6 k`."""
    return _scaled(number, ("", "k", "M", "G", "T")).rstrip()


def _scaled(value: float, units: tuple[str, ...]) -> str:
    index = 0
    while abs(value) >= 1000 and index < len(units) - 1:
        value, index = value / 1000, index + 1
    digits = 0 if index == 0 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f} {units[index]}"


def tensor(entry: dict[str, Any]) -> str:
    """An input or output: `x: float32[n, 3, 224, 224]`."""
    return f"{entry['name']}: {entry['dtype']}{dims(entry['shape'])}"


def dims(shape: Iterable[int | str]) -> str:
    """A shape: `[n, 3, 224, 224]`."""
    return f"[{', '.join(map(str, shape))}]"


def seconds(value: float) -> str:
    """Seconds for phases of a compilation: `0.14 s`."""
    return f"{value:.2f} s"
