"""A finished kernel: its code and the constants that it takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tvm import tirx


@dataclass(frozen=True)
class Kernel:
    """A PrimFunc over a group's parameters, then constants, then scalars, then the result.

    Attributes:
        name: what the algorithm is called, as profiles show it.
        func: the code.
        constants: packed weights and the like, in the order of the parameters.
        scalars: values of the int64 parameters between the constants and the result.
    """

    name: str
    func: tirx.PrimFunc
    constants: list[np.ndarray] = field(default_factory=list)
    scalars: list[int] = field(default_factory=list)

    def with_attr(self, name: str, value: Any) -> Kernel:
        """The same, its code with an attribute."""
        return replace(self, func=self.func.with_attr(name, value))
