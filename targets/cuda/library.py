"""The kernel library for one GPU, as the grouping and layout passes see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, tirx

from relaxc.layout import PLAIN, Demand, Element, Layout
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.machine import Gpu


@dataclass(frozen=True)
class CudaKernels:
    """Which operators have a kernel, what layouts these want, and how they become code.

    Attributes:
        gpu: the architecture.
    """

    gpu: Gpu

    @property
    def lanes(self) -> int:
        """Elements per block of the blocked layout, which no kernel here asks for."""
        return 16

    def anchor(self, call: relax.Call) -> str | None:
        """The kernel that computes this call as an anchor, if there is one."""
        return None

    def is_epilogue(self, call: relax.Call, anchor: relax.Call, kernel: str) -> bool:
        """Whether `call` can be computed on the result of `anchor` in registers."""
        return False

    def has_attention(self, func: relax.Function) -> bool:
        """Whether an attention group has a kernel."""
        return False

    def is_score_operator(self, call: relax.Call) -> bool:
        """Whether an operator can be computed on attention scores in registers."""
        return False

    def demands(self, func: relax.Function, data: Layout) -> list[Demand]:
        """What a group asks of each parameter, if the first has the layout `data` now."""
        return [Demand(("plain",)) for _ in func.params]

    def result_layout(self, func: relax.Function, params: Sequence[Layout]) -> Layout:
        """How a group writes its result, given how its parameters lie."""
        return PLAIN

    def elements(self, func: relax.Function) -> list[Element | None]:
        """How a group must have each parameter stored; None where it reads either."""
        return [None] * len(func.params)

    def is_product(self, func: relax.Function) -> bool:
        """Whether a group computes sums of products."""
        return False

    def lower_recurrent(
        self, func: tirx.PrimFunc, attrs: Mapping[str, Any], weight: np.ndarray
    ) -> Kernel | None:
        """Write the kernel of a recurrent layer."""
        return None

    def lower(self, func: relax.Function, name: str, layouts: Sequence[Layout]) -> Kernel:
        """Write a group's kernel."""
        raise NotImplementedError(name)
