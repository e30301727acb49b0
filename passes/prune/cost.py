"""What a module would cost without some of its channels, told without rewriting it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.analysis.cost import layer_costs
from relaxc.passes.prune.channels import Axis
from relaxc.passes.prune.dependency import Dependencies
from relaxc.passes.prune.latency import LatencyTable
from relaxc.passes.prune.operands import tensor_operands


class PrunedCost:
    """Costs as functions of what is removed; symbolic dimensions count as 1.

    Args:
        mod: what `found` is about.
        found: its channels.
        latency: seconds, where they were measured.
    """

    def __init__(
        self, mod: IRModule, found: Dependencies, latency: LatencyTable | None = None
    ) -> None:
        self.latency = latency
        costs = {layer["name"]: layer["macs"] for layer in layer_costs(mod)}
        self._macs: list[tuple[int, list[npt.NDArray[np.int64]]]] = []
        self._params: list[tuple[int, list[npt.NDArray[np.int64]]]] = []
        for block in mod["main"].body.blocks:
            for binding in block.bindings:
                call = binding.value
                if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
                    continue
                operands = tensor_operands(call)
                constants = [i for i, o in enumerate(operands) if isinstance(o, GenericConst)]
                weights = [found.weights.get((binding.var, i), ()) for i in constants]
                for i, axes in zip(constants, weights):
                    size = int(np.prod([int(d) for d in operands[i].ty.shape.values]))
                    self._params.append((size, _known(axes)))
                if costs.get(binding.var.name):
                    axes = weights[0] if weights else found.values[binding.var][0]
                    self._macs.append((costs[binding.var.name], _known(axes)))
        channels = [c for group in found.groups for c in group.channels]
        self._size = 1 + max((int(a.max()) for _, axes in self._params for a in axes), default=0)
        self._size = max([self._size, *(c + 1 for c in channels)])
        self._size = max([self._size, *(int(a.max()) + 1 for _, s in self._macs for a in s)])

    def total(self, saving: str) -> Callable[[Collection[int]], float]:
        """The cost that a budget counts: `macs`, `params` or `latency`."""
        if saving == "latency":
            assert self.latency is not None
            return self.latency.seconds
        return self.macs if saving == "macs" else self.params

    def macs(self, removed: Collection[int]) -> float:
        """Multiply-accumulate operations that are left."""
        return self._total(self._macs, removed)

    def params(self, removed: Collection[int]) -> float:
        """Numbers in weights that are left."""
        return self._total(self._params, removed)

    def _total(self, entries: Any, removed: Collection[int]) -> float:
        kept = np.ones(self._size)
        kept[np.fromiter(removed, np.int64, len(removed))] = 0
        return float(sum(n * np.prod([kept[a].mean() for a in axes]) for n, axes in entries))


def _known(axes: tuple[Axis, ...]) -> list[npt.NDArray[np.int64]]:
    return [axis for axis in axes if axis is not None]
