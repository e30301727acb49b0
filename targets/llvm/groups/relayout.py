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
    b = KernelBuilder("relayout", machine.lanes)
    if all(layout.same_memory(PLAIN) for layout in layouts):
        x, y = (b.param(n, logical, la.element) for n, la in zip(("x", "y"), layouts))
        relayout.convert(b, x, y)
        return Kernel("convert", b.finish())
    dims = MapDomain(tuple(logical)).dims
    views = []
    for name, layout in zip(("x", "y"), layouts):
        shape = logical if layout.same_memory(PLAIN) else layout.physical_shape(dims)
        buffer = b.param(name, shape, layout.element)
        views.append(View.of(buffer, dims, layout, machine.lanes))
    relayout.emit(b, views[0], views[1], dims[0])
    return Kernel("relayout", b.finish())
