"""Products and convolutions whose weights are mostly zero: whether zeros are left out, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

import numpy as np
from tvm.ir import GenericConst

from relaxc.layout import SPARSITY
from relaxc.targets.llvm.groups.base import Group, KernelFrame
from relaxc.targets.llvm.kernels import scattered, sparse
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.sparse_plan import (
    Window,
    choose_scattered_tile,
    choose_tile,
    relative_cost,
    relative_scattered_cost,
)
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine

Method = Literal["blocks", "scattered", "dense"]
# Of the dense kernel's time: estimates are not exact.
WORTHWHILE = 0.9
# Weights with fewer zeros than that are dense.
_FEWEST_ZEROS = 0.3
_SAMPLE = 1 << 14


@dataclass(frozen=True)
class Sparsity:
    """What the zeros of a layer's weights are good for.

    Attributes:
        zeros: the share of weights that are zero.
        zero_blocks: the share of blocks, of one input and a vector of outputs, that are all zero.
        cost: estimated time without zeros relative to the dense kernel.
        method: `blocks` leaves out blocks of zeros, `scattered` all zeros, `dense` none.
    """

    zeros: float
    zero_blocks: float
    cost: float
    method: Method

    @property
    def is_used(self) -> bool:
        """Whether zeros are left out."""
        return self.method != "dense"

    def mark(self, kernel: Kernel) -> Kernel:
        """A kernel that says so, for reports."""
        return kernel.with_attr(SPARSITY, asdict(self))


@dataclass(frozen=True)
class Product:
    """A group as the sparse kernel sees it.

    Attributes:
        weight: [out, in, kh, kw].
        window: which pixels of the data it reads.
        saving: by how much the dense kernel multiplies less than it would directly.
        pixel: elements from one pixel of the data to the next, if known.
    """

    weight: np.ndarray
    window: Window
    saving: float = 1.0
    pixel: int | None = None

    @property
    def depth(self) -> int:
        """Channels of the data."""
        return int(self.weight.shape[1])

    def vectors(self, lanes: int) -> int:
        """Of outputs."""
        return -(-len(self.weight) // lanes)

    def cost(self, kept: float, machine: Machine) -> float:
        """Estimated time relative to the dense kernel, when this share of blocks is not zero."""
        vectors = self.vectors(machine.lanes)
        return relative_cost(
            self.window, self.depth, vectors, kept, self.saving, machine, self.pixel
        )

    def gains(self, kept: float, machine: Machine) -> bool:
        """Whether it would be worthwhile to leave out the other blocks."""
        return self.cost(kept, machine) < WORTHWHILE

    def sparsity(self, machine: Machine) -> Sparsity | None:
        """What there is to gain; None where weights are dense."""
        sample = self.weight.reshape(-1)[:: max(1, self.weight.size // _SAMPLE)]
        if np.count_nonzero(sample) > (1 - _FEWEST_ZEROS / 2) * sample.size:
            return None
        zeros = 1 - np.count_nonzero(self.weight) / self.weight.size
        if zeros < _FEWEST_ZEROS:
            return None
        kept = float(sparse.kept_blocks(self.weight, machine.lanes).mean())
        costs: dict[Method, float] = {"blocks": self.cost(kept, machine)}
        if self.is_pointwise(machine):
            costs["scattered"] = relative_scattered_cost(*self._scattered(machine))
        best = min(costs, key=lambda method: costs[method])
        method = best if costs[best] < WORTHWHILE else "dense"
        return Sparsity(zeros, 1 - kept, costs[best], method)

    def is_pointwise(self, machine: Machine) -> bool:
        """Whether a pixel reads the same one of the data, and vectors of either can be filled."""
        w = self.window
        return (
            (w.kernel, w.stride, w.start) == ((1, 1), (1, 1), (0, 0))
            and self.depth >= machine.lanes
            and (not isinstance(w.width, int) or w.pixels() >= machine.lanes)
        )

    def _scattered(self, machine: Machine) -> tuple[int | None, int, int, float, Machine]:
        """What there is to know for the choice of a tile."""
        w = self.window
        is_known = isinstance(w.width, int) and isinstance(w.batch, int)
        pixels = int(w.batch * w.pixels()) if is_known else None
        left = np.count_nonzero(self.weight) / self.weight.size
        return pixels, self.depth, len(self.weight), left, machine

    def emit(self, method: Method, frame: KernelFrame, x: View, machine: Machine) -> Kernel:
        """Write the kernel that leaves zeros out."""
        return (self._emit_scattered if method == "scattered" else self._emit_blocks)(
            frame, x, machine
        )

    def _emit_scattered(self, frame: KernelFrame, x: View, machine: Machine) -> Kernel:
        tile = choose_scattered_tile(*self._scattered(machine))
        packed = scattered.pack(self.weight[:, :, 0, 0], tile, machine.lanes)
        buffers = {f.name: frame.constant(f.name, getattr(packed, f.name)) for f in fields(packed)}
        operands, y = frame.operands(), frame.result()
        pixels = scattered.Pixels(self.window.batch, self.window.height, self.window.width)
        weights = scattered.Weights(**buffers)
        scattered.emit(frame.b, pixels, tile, x, weights, y, operands)
        return frame.finish()

    def _emit_blocks(self, frame: KernelFrame, x: View, machine: Machine) -> Kernel:
        tile = choose_tile(self.window, self.depth, self.vectors(machine.lanes), machine, x.pixel)
        packed = sparse.pack(self.weight, self.window, x, tile, machine.lanes)
        buffers = {f.name: frame.constant(f.name, getattr(packed, f.name)) for f in fields(packed)}
        operands, y = frame.operands(), frame.result()
        sparse.emit(frame.b, self.window, tile, x, sparse.Weights(**buffers), y, operands)
        return frame.finish()


def is_float(group: Group) -> bool:
    """Whether a group's weight and data are float32."""
    data, weight = group.anchor.args
    return isinstance(weight, GenericConst) and group.element(data) == "float32"
