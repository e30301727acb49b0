"""Resizing: one kernel for the loop nests of both axes of a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.kernels.domain import as_int, simple
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.resize import LANES, Picks, ResizeSpec, ResizeWriter, Taps
from relaxc.targets.llvm.kernels.streaming import pays
from relaxc.targets.llvm.machine import Machine

# Rows of a sum whose places and weights are held in registers.
_MOST_TAPS = 8

Axis = tuple[int, np.ndarray, "np.ndarray | None"]


def lower_resize(shape: Sequence[Any], axes: Sequence[Axis], machine: Machine) -> Kernel | None:
    """The kernel that resizes float32 of this shape; None where the loop nests must do.

    Args:
        shape: of the data; dimensions in front of the first that is resized may be symbolic.
        axes: per resized axis its number, positions and weights; one, or the last two.
        machine: the CPU.
    """
    dims, rank = [simple(d) for d in shape], len(shape)
    if any(places.shape[1] > _MOST_TAPS for _, places, _ in axes) or 0 in map(as_int, shape):
        return None
    taps = {axis: Taps(places, weights) for axis, places, weights in axes}
    columns = taps.pop(rank - 1, None)
    if len(taps) > 1 or (columns is not None and any(axis != rank - 2 for axis in taps)):
        return None
    # Columns alone: each row is a map of one.
    axis, rows = next(iter(taps.items()), (rank - 1, None))
    height = dims[axis] if rows is not None else 1
    width = math.prod(dims[axis + (rows is not None) :])
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    spec = ResizeSpec(math.prod(dims[:axis]), height, width, rows, columns)
    picks = None
    if columns is not None:
        picks = Picks.of(columns, width) if machine.lanes == LANES else None
        if picks is None:
            return None
    new = list(dims)
    for number, places, _ in axes:
        new[number] = len(places)
    b = KernelBuilder("resize", machine.lanes)
    x = b.param("x", dims)
    writer = ResizeWriter(b, spec, picks)
    y = b.param("y", new)
    writer.write(x, y, pays(b, math.prod(new), 4, (spec.new_width,)))
    return Kernel("resize", b.finish(), writer.constants)
