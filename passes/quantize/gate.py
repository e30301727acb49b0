"""Decide which nodes stay float although they could be quantized, by how fast they are.

Before:                              After:
    main                                 main with the attribute `float_nodes` = ["/conv1/Conv"]

Whoever quantizes next leaves these nodes alone, like those that the user excludes, and removes the
attribute. The decision is `choose`'s, which measures; ranges do not matter for speed, so that it
needs no calibration.
Must run after: canonicalization and pruning, which decide what is computed. Must run before:
annotate-quantization, quantize-weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule

from relaxc.passes.base import Pass
from relaxc.passes.quantize.exclusion import FLOAT_NODES


@dataclass(frozen=True)
class GateQuantization(Pass):
    """Exclude nodes that are not faster on integers.

    Attributes:
        choose: given the float module, the nodes that are to stay so.
    """

    choose: Callable[[IRModule], Collection[str]]

    name: ClassVar[str] = "gate-quantization"

    def apply(self, mod: IRModule) -> IRModule:
        """Annotate `main`."""
        nodes = sorted(self.choose(mod))
        if not nodes:
            return mod
        result = mod.clone()
        result["main"] = mod["main"].with_attr(FLOAT_NODES, nodes)
        return result
