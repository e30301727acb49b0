"""Moves between layouts, inserted by `choose-layout`."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from relaxc.layout import PLAIN, Layout
from relaxc.targets.llvm.kernels import relayout
from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.kernels.domain import MapDomain
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine


def lower_relayout(func: relax.Function, layouts: Sequence[Layout], machine: Machine) -> Kernel:
    """Copy a tensor from the first layout to the second."""
    logical = list(func.params[0].ty.shape.values)
    dims = MapDomain(tuple(logical)).dims
    b = KernelBuilder("relayout", machine.lanes)
    views = []
    for name, layout in zip(("x", "y"), layouts):
        shape = logical if layout == PLAIN else layout.physical_shape(dims)
        views.append(View.of(b.param(name, shape), dims, layout, machine.lanes))
    relayout.emit(b, views[0], views[1], dims[0])
    return Kernel("relayout", b.finish())
