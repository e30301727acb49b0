"""Planes of a volume, stacked as channels of maps for the convolution that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from relaxc.layout import PLAIN, PLANES, Demand, Layout
from relaxc.targets.llvm.groups.relayout import finished, read_anywhere
from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.targets.llvm.kernels.domain import as_int
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.planes import Volume, emit_planes
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine

_CHANNELS_BEHIND = [0, 2, 1, 3, 4]


@dataclass(frozen=True)
class Planes:
    """A group of `group-planes`, taken apart.

    Attributes:
        dims: of the volume: (n, d, c, h, w).
        reads: [outputs, taps], the planes that are stacked for each output; -1: zeros.
        channels_first: whether the parameter is (n, c, d, h, w), else (n * d, c, h, w).
    """

    dims: tuple[int, int, int, int, int]
    reads: np.ndarray
    channels_first: bool

    @staticmethod
    def of(func: relax.Function) -> Planes | None:
        """Take a group apart; None if it does something else."""
        calls = [b.value for block in func.body.blocks for b in block.bindings]
        calls = [call for call in calls if isinstance(call, relax.Call)]
        names = [str(call.op.name).removeprefix("relax.") for call in calls]
        channels_first = names[:2] == ["permute_dims", "reshape"]
        if channels_first:
            if [int(a) for a in calls[0].attrs.axes] != _CHANNELS_BEHIND:
                return None
            calls, names = calls[2:], names[2:]
        is_padded = names == ["reshape", "nn.pad", "take", "reshape", "reshape"]
        if not is_padded and names != ["reshape", "take", "reshape", "reshape"]:
            return None
        volume, taken, stacked = (c.ty.shape for c in (calls[0], calls[-3], calls[-1]))
        param = func.params[0].ty
        if str(param.dtype.dtype) != "float32" or len(volume.values) != 5:
            return None
        sizes = [as_int(d) for s in (volume, taken, stacked, param.shape) for d in s.values]
        if None in sizes or 0 in sizes or len(stacked.values) != 4:
            return None
        n, d, c, h, w = (int(size) for size in volume.values)
        seen = [n, c, d, h, w] if channels_first else [n * d, c, h, w]
        images, channels, *rest = (int(size) for size in stacked.values)
        taps, left = divmod(channels, c)
        if left or images % n or rest != [h, w] or [int(s) for s in param.shape.values] != seen:
            return None
        if is_padded and not _appends_zeros(calls[1]):
            return None
        indices = calls[-3].args[1].value.numpy()
        if indices.size * n != images * taps or indices.min() < 0 or indices.max() > d:
            return None
        reads = np.where(indices == d, -1, indices).reshape(-1, taps)
        return Planes((n, d, c, h, w), reads.astype(np.int32), channels_first)


def _appends_zeros(pad: relax.Call) -> bool:
    widths = [int(width) for width in pad.attrs.pad_width]
    is_constant = str(pad.attrs.pad_mode) == "constant" and float(pad.attrs.pad_value) == 0
    return is_constant and widths == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]


def has_planes(func: relax.Function, machine: Machine) -> bool:
    """Whether the result fills vectors of channels: others are read plane by plane."""
    planes = Planes.of(func)
    return planes is not None and planes.dims[2] * planes.reads.shape[1] >= machine.lanes


def demands(func: relax.Function, data: Layout, machine: Machine) -> list[Demand]:
    """Vectors of channels as they lie, if none is shared by two planes; else rows of pixels."""
    planes = Planes.of(func)
    assert planes is not None, "has_planes() admits these only"
    by_vectors = not planes.channels_first and planes.dims[2] % machine.lanes == 0
    if by_vectors and data.kind == "blocked":
        return [Demand(("blocked",))]
    return [Demand(("plain",), exact=True)]


def lower_planes(func: relax.Function, layouts: Sequence[Layout], machine: Machine) -> Kernel:
    """Write the kernel."""
    planes = Planes.of(func)
    assert planes is not None, "has_planes() admits these only"
    n, d, c, h, w = planes.dims
    given, wanted = layouts
    b = KernelBuilder(PLANES, machine.lanes)
    shape = [int(size) for size in func.params[0].ty.shape.values]
    if not given.same_memory(PLAIN):
        shape = given.physical_shape(shape)
    x = View.of(b.param("x", shape, given.element), (n * d, c, h, w), given, machine.lanes)
    source = read_anywhere(b, x)
    volume = Volume.of(source, d, planes.channels_first)
    table = b.param("reads", planes.reads.shape, "int32")
    result = [int(size) for size in func.ret_ty.shape.values]
    buffer = b.param("y", wanted.physical_shape(result), wanted.element)
    y = View.of(buffer, (result[0], result[1], h, w), wanted, machine.lanes)
    emit_planes(b, volume, y, table)
    return finished(Kernel(PLANES, b.finish(), [planes.reads]), source is not x)
