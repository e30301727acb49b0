"""Let products with integer weights round their float data to int8 as the model runs.

Before:                                  After:
    gv = matmul_0(x)                         gv = matmul_0(x)
where matmul_0 holds a dequantized           where matmul_0 has the attribute `rounds_rows`, too:
weight                                       its kernel rounds each row of x to int8, with a scale
                                             of its own, and multiplies integers

No calibration: scales are those of the largest element of a row, in as many pieces as the weight
has groups. Changes results by: about half a step of 1/127 of that element, per element of a row.
Fires when: the target has a kernel for the group, and its data are stored as float32.
Leaves alone: products of data that are stored as integers, which know their ranges.
Must run after: group-ops, realize-quantization. Must run before: lower-groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from tvm import IRModule, relax

from relaxc.layout import ELEMENTS, KERNEL, ROUNDS_ROWS
from relaxc.passes.base import Pass


class RoundingLibrary(Protocol):
    """What the pass asks of a target."""

    def can_round_rows(self, func: relax.Function) -> bool:
        """Whether a group has a kernel that rounds rows of its data to int8."""


@dataclass(frozen=True)
class RoundRows(Pass):
    """Annotate groups that round their data.

    Attributes:
        library: the target's kernels.
    """

    library: RoundingLibrary

    name: ClassVar[str] = "round-rows"
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Look at every group."""
        out = mod.clone()
        for gvar, func in mod.functions_items():
            if not isinstance(func, relax.Function) or not func.attrs or KERNEL not in func.attrs:
                continue
            if func.attrs.get(ELEMENTS) is None and self.library.can_round_rows(func):
                out[gvar] = func.with_attr(ROUNDS_ROWS, True)
        return out
