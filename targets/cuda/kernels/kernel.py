"""A finished kernel: its code and the constants that it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tvm import tirx

from relaxc.targets.cuda.kernels.packing import Packed


@dataclass(frozen=True)
class Kernel:
    """A PrimFunc over a group's parameters, then constants, then scalars, then the result.

    Attributes:
        name: what the algorithm is called, as profiles show it.
        func: launches the code.
        constants: packed weights and the like, in the order of the parameters.
        scalars: values of the int64 parameters between the constants and the result.
        packed: place of a constant that is a packed matrix -> how it was packed.
    """

    name: str
    func: tirx.PrimFunc
    constants: list[np.ndarray] = field(default_factory=list)
    scalars: list[int] = field(default_factory=list)
    packed: dict[int, Packed] = field(default_factory=dict)
