"""How long a module would take without some of its channels: from times of its narrower selves.

Kernels move in steps: 33 channels may take as long as 48, and half of the channels more than a
quarter of the time. So the module is timed with all groups at the same few widths, kernel by
kernel. That gives a table per layer, of channels against seconds; where the widths of input and
output differ, a layer takes the time of that point of its table with as many products.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.prune.channels import Axes
from relaxc.passes.prune.dependency import Dependencies, Group
from relaxc.passes.prune.importance import Scores
from relaxc.passes.prune.operands import tensor_operands
from relaxc.passes.prune.remove import remove_channels

# Nodes of each kernel, and its seconds.
KernelSeconds = Sequence[tuple[tuple[str, ...], float]]
# Times all kernels of modules; of each module in turn.
Clock = Callable[[Sequence[IRModule]], Iterable[KernelSeconds]]

# Shares of every group's channels that are left.
_WIDTHS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
_PART = re.compile(r"\.\d+$")


@dataclass(frozen=True)
class _Row:
    """A layer: shares of its products, ascending, and seconds; the channels that they depend on."""

    layer: str
    work: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    axes: tuple[npt.NDArray[np.int64], ...]


class LatencyTable:
    """Seconds as a function of what is removed."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self._rows = rows
        size = max((int(a.max()) for row in rows for a in row.axes), default=0)
        self._size = size + 1

    def seconds(self, removed: Collection[int]) -> float:
        """What all kernels take together."""
        return sum(self.by_layer(removed).values())

    def by_layer(self, removed: Collection[int]) -> dict[str, float]:
        """What the kernels of each node take; under no name, those of nodes without channels."""
        kept = np.ones(self._size)
        gone = np.fromiter(removed, np.int64, len(removed))
        kept[gone[gone < self._size]] = 0
        return {
            row.layer: float(np.interp(_share(row.axes, kept), row.work, row.seconds))
            for row in self._rows
        }


def measure_table(
    mod: IRModule,
    found: Dependencies,
    groups: Sequence[Group],
    scores: Scores,
    rounded: Callable[[Group, float], int],
    clock: Clock,
) -> LatencyTable:
    """Time a module at several widths.

    Args:
        mod: what `found` is about.
        found: its channels.
        groups: those that may lose some.
        scores: which of them go first.
        rounded: how many channels of a group go so that about a share of them does.
        clock: times kernels.
    """
    ranked = {g.name: sorted(g.channels, key=scores.__getitem__) for g in groups}
    removals: list[list[int]] = []
    for width in _WIDTHS:
        gone = [c for g in groups for c in ranked[g.name][: rounded(g, 1 - width)]]
        if gone not in removals:
            removals.append(gone)
    timed = list(clock([remove_channels(mod, found, gone) for gone in removals]))
    axes = _axes(mod, found)
    by_layer: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(removals))
    for number, kernels in enumerate(timed):
        for nodes, seconds in kernels:
            by_layer[_layer(nodes, axes)][number] += seconds
    rows = []
    for layer, column in by_layer.items():
        known = tuple(a for a in axes.get(layer, ()) if a is not None)
        rows.append(_row(layer, known, removals, column))
    return LatencyTable(rows)


def _row(
    layer: str,
    axes: tuple[npt.NDArray[np.int64], ...],
    removals: list[list[int]],
    seconds: list[float],
) -> _Row:
    size = 1 + max((int(a.max()) for a in axes), default=0)
    work = []
    for gone in removals:
        kept = np.ones(size)
        numbers = np.array(gone, np.int64)
        kept[numbers[numbers < size]] = 0
        work.append(_share(axes, kept))
    order = np.argsort(work, kind="stable")
    # A narrower layer is never slower than a wider one: what looks so is noise.
    times = np.minimum.accumulate(np.array(seconds)[order][::-1])[::-1]
    return _Row(layer, np.array(work)[order], times, axes)


def _share(axes: Sequence[npt.NDArray[np.int64]], kept: npt.NDArray[np.float64]) -> float:
    return float(np.prod([kept[a].mean() for a in axes])) if axes else 1.0


def _axes(mod: IRModule, found: Dependencies) -> dict[str, Axes]:
    """The channels that the work of a node depends on: of its weight, else of its result."""
    result: dict[str, Axes] = {}
    weighted: dict[str, Axes] = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            call, node = binding.value, _PART.sub("", str(binding.var.name))
            if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
                continue
            result[node] = found.values[binding.var][0]
            for position, operand in enumerate(tensor_operands(call)):
                if isinstance(operand, GenericConst) and operand.ty.ndim > 1:
                    axes = found.weights.get((binding.var, position), ())
                    # Biases have one axis that counts; convolutions and products two.
                    if sum(n > 1 for n in map(int, operand.ty.shape.values)) > 1:
                        weighted.setdefault(node, axes)
    return result | weighted


def _layer(nodes: tuple[str, ...], axes: Mapping[str, Axes]) -> str:
    """The node that a kernel's time depends on most: the one with most axes that matter."""
    known = [node for node in nodes if node in axes]
    if not known:
        return ""
    return max(known, key=lambda node: sum(a is not None for a in axes[node]))
