"""What every function of the host looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Inputs = list[Any]
Attributes = Mapping[str, Any]
# From inputs (None where absent) and attributes to the outputs.
Function = Callable[[Inputs, Attributes], list[Any]]


def optional(inputs: Inputs, index: int) -> Any:
    """An input, or None where it is absent."""
    return inputs[index] if index < len(inputs) else None


def integer(value: np.ndarray) -> int:
    """The only element of an integer tensor."""
    return int(np.asarray(value).reshape(()))


def strings(values: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """An array of Python strings."""
    listed = list(values)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array if shape is None else array.reshape(shape)
