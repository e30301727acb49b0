"""Moves between layouts, inserted by `choose-layout`, and into and out of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm import relax

from relaxc.layout import FIRST_IMAGE, KERNEL, PLAIN, TAKE_IMAGES, Layout
from relaxc.targets.llvm.alignment import ANY_ALIGNMENT
from relaxc.targets.llvm.kernels import relayout
from relaxc.targets.llvm.kernels.builder import KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import Dims, MapDomain
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine


def lower_relayout(func: relax.Function, layouts: Sequence[Layout], machine: Machine) -> Kernel:
    """Copy a tensor from the first layout to the second."""
    logical = list(func.params[0].ty.shape.values)
    b = KernelBuilder("relayout", machine.lanes)
    if all(layout.same_memory(PLAIN) for layout in layouts):
        given, wanted = (b.param(n, logical, la.element) for n, la in zip(("x", "y"), layouts))
        relayout.convert(b, given, wanted)
        return Kernel("convert", b.finish())
    x, y = (_view(b, n, logical, la) for n, la in zip(("x", "y"), layouts))
    # Not the first of the logical dimensions: a tensor of fewer than four has one image.
    source = read_anywhere(b, x)
    relayout.emit(b, source, y, _dims(logical)[0])
    return finished(Kernel("relayout", b.finish()), source is not x)


def lower_images(func: relax.Function, layouts: Sequence[Layout], machine: Machine) -> Kernel:
    """Copy some images out of a batch, or into the batch that they become a part of."""
    name = str(func.attrs[KERNEL])
    b = KernelBuilder(name, machine.lanes)
    shapes = [list(ty.shape.values) for ty in (func.params[0].ty, func.ret_ty)]
    x, y = (_view(b, n, s, la) for n, s, la in zip(("x", "y"), shapes, layouts))
    # A parameter, so that all parts share their code.
    first = b.scalar_param("first_image", before_last=True)
    if name == TAKE_IMAGES:
        x = replace(x, origin=x.origin + first * x.image)
    else:
        y = replace(y, origin=y.origin + first * y.image)
    source = read_anywhere(b, x)
    relayout.emit(b, source, y, min(int(_dims(shape)[0]) for shape in shapes))
    kernel = Kernel(name, b.finish(), scalars=[int(func.attrs[FIRST_IMAGE])])
    return finished(kernel, source is not x)


def read_anywhere(b: KernelBuilder, x: View) -> View:
    """The same tensor, whose vectors nobody can prove to be aligned, if it may be an input."""
    if not x.layout.same_memory(PLAIN):
        return x
    register = b.register("int64", 1)
    register.set(index(x.origin))
    return replace(x, origin=b.let(register.get()))


def finished(kernel: Kernel, reads_anywhere: bool) -> Kernel:
    """The kernel, and whether its first parameter may lie anywhere."""
    return kernel.with_attr(ANY_ALIGNMENT, [0]) if reads_anywhere else kernel


def _view(b: KernelBuilder, name: str, logical: Sequence[Any], layout: Layout) -> View:
    dims = _dims(logical)
    shape = list(logical) if layout.same_memory(PLAIN) else layout.physical_shape(dims)
    return View.of(b.param(name, shape, layout.element), dims, layout, b.lanes)


def _dims(logical: Sequence[Any]) -> Dims:
    return MapDomain(tuple(logical)).dims
