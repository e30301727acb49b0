"""TVM's own passes under our contract: a name, a level, and a one-line account of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax

from relaxc.passes.base import Pass


@dataclass(frozen=True)
class StockPass(Pass):
    """A transformation that ships with TVM."""

    transform: ClassVar[Callable[[], tvm.transform.Pass]]

    def apply(self, mod: IRModule) -> IRModule:
        """Run the TVM pass."""
        return type(self).transform()(mod)


class DecomposeComposites(StockPass):
    """Write inference-time batch norm and its like as elementwise operators."""

    name = "decompose-composites"
    opt_level = 0
    required = True
    transform = relax.transform.DecomposeOpsForInference


class EliminateCommonSubexpressions(StockPass):
    """Compute equal expressions once."""

    name = "eliminate-common-subexpressions"
    transform = relax.transform.EliminateCommonSubexpr


class EliminateDeadCode(StockPass):
    """Drop bindings and functions that nobody uses."""

    name = "eliminate-dead-code"
    transform = relax.transform.DeadCodeElimination


class FuseTIR(StockPass):
    """Merge each group into one PrimFunc."""

    name = "fuse-tir"
    opt_level = 2
    transform = relax.transform.FuseTIR
