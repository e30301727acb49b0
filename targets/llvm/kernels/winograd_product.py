"""The products of Winograd's method, and what is fetched while they keep the multipliers busy.

A step multiplies one transformed channel of up to 14 tiles with two vectors of weights: 14 cycles,
in which a core can ask for a few lines that it will need later. Transforms do little but move data,
so that whatever they find in the caches is time saved.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, index
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.kernels.winograd_plan import Plan

# Elements ahead in a panel of transformed weights, which may lie in L3.
_PREFETCH = 4096
_LINE = 16  # elements in a cache line


@dataclass(frozen=True)
class Step:
    """Where a product is.

    Attributes:
        position: of the transformed tile.
        block, lane: the channel block, and the channel in it.
        first, size: tiles of the register tile.
        tiles: index of the first of them in the transformed data of this position.
        panel: index of the channel's weights.
        is_first: whether register tiles of this size are the first of their block.
    """

    position: Index
    block: Index
    lane: Index
    first: Index
    size: int
    tiles: Index
    panel: Index
    is_first: bool


class Fetch(abc.ABC):
    """Asks for a line or two in each step of a product."""

    @abc.abstractmethod
    def at(self, b: KernelBuilder, step: Step) -> None:
        """Write the prefetches of one step."""


@dataclass(frozen=True)
class PanelAhead(Fetch):
    """The transformed weights of the steps that follow."""

    panels: Buffer
    group: int

    def at(self, b: KernelBuilder, step: Step) -> None:
        """Once for all register tiles."""
        if step.is_first:
            for k in range(self.group):
                b.prefetch(self.panels, step.panel + k * b.lanes + _PREFETCH)


@dataclass(frozen=True)
class WeightsAhead(Fetch):
    """The next weights that will be transformed: an equal share in each step.

    Attributes:
        weight: the weights.
        start: index of the first one.
        depth: channel blocks of the product.
        share: elements per step.
        is_wanted: a condition; else one line is asked for again and again.
    """

    weight: Buffer
    start: Index
    depth: int
    share: int
    is_wanted: Expr | None

    def at(self, b: KernelBuilder, step: Step) -> None:
        """Once for all register tiles."""
        if not step.is_first:
            return
        count = step.position * (self.depth * b.lanes) + step.block * b.lanes + step.lane
        share: Index = self.share
        if self.is_wanted is not None:  # no branch: it would cost the sums their registers
            share = b.let(tirx.Select(self.is_wanted, index(self.share), index(0)))
        at = b.let(self.start + count * share)
        for line in range(0, self.share, _LINE):
            b.prefetch(self.weight, at + line)


@dataclass(frozen=True)
class DataAhead(Fetch):
    """The transformed data of the next position, half of which lie in another core's cache."""

    data: Buffer
    stride: int
    block: int

    def at(self, b: KernelBuilder, step: Step) -> None:
        """A line per tile and channel block, each in a step of its own."""
        line = (step.block * self.block + step.lane) * b.lanes
        b.prefetch(self.data, b.let(step.tiles + line + self.stride))


@dataclass(frozen=True)
class MapAhead(Fetch):
    """The map under the next block of tiles, where maps come from memory.

    Attributes:
        x: the map.
        plan, spec: of the convolution.
        across: tiles per row.
        image, block: which block of tiles.
    """

    x: View
    plan: Plan
    spec: ConvSpec
    across: int
    image: Index
    block: Index

    def at(self, b: KernelBuilder, step: Step) -> None:
        """The pixel that has the position's number in its tile: a line per tile and block."""
        plan, (top, left) = self.plan, self.spec.padding[:2]
        for more in range(0, step.size, b.lanes):
            tile = b.let(self.block * plan.block + step.first + more + step.lane)
            h = tile // self.across * (plan.rows.outputs * plan.rows.stride) - top
            w = tile % self.across * (plan.columns.outputs * plan.columns.stride) - left
            row, column = step.position // plan.columns.size, step.position % plan.columns.size
            b.prefetch(self.x.buffer, b.let(self.x.at(self.image, step.block, h + row, w + column)))


@dataclass(frozen=True)
class Product:
    """Products of transformed tiles and weights, one register tile at a time.

    Attributes:
        b: writes the kernel.
        plan: of the convolution.
        data, panels: the factors.
        product: where the products go, or are added to where `adds` holds.
        stride: elements between positions of the product.
        depth: channel blocks.
        fetches: what is fetched meanwhile.
    """

    b: KernelBuilder
    plan: Plan
    data: Buffer
    panels: Buffer
    product: Buffer
    stride: int
    depth: int
    adds: bool
    fetches: Sequence[Fetch]

    def write(
        self, position: Index, panel: Index, row: Index, first: Index, size: int, is_first: bool
    ) -> None:
        """Tiles `first` to `first + size` of a position's row, by its panel."""
        b, plan, lanes = self.b, self.plan, self.b.lanes
        acc = [[b.register() for _ in range(size)] for _ in range(plan.group)]
        to = b.let(position * self.stride + first * lanes)
        for k, registers in enumerate(acc):
            for t, register in enumerate(registers):
                old = b.load(self.product, to + (k * plan.block + t) * lanes)
                register.set(old if self.adds else b.splat(0.0))
        tiles = b.let(row + first * lanes)
        with b.loop(self.depth) as block, b.loop(lanes) as lane:
            i = b.let(block * lanes + lane)
            at = b.let(panel + i * (plan.group * lanes))
            step = Step(position, block, lane, first, size, tiles, at, is_first)
            for fetch in self.fetches:
                fetch.at(b, step)
            weights = [b.let(b.load(self.panels, at + k * lanes)) for k in range(plan.group)]
            values = b.let(tiles + block * (plan.block * lanes) + lane)
            for t in range(size):
                value = b.let(b.broadcast(self.data, values + t * lanes))
                for k in range(plan.group):
                    acc[k][t].set(acc[k][t].get() + value * weights[k])
        for k, registers in enumerate(acc):
            for t, register in enumerate(registers):
                b.store(self.product, to + (k * plan.block + t) * lanes, register.get())
