"""Which convolutions are computed by Winograd's method, and with which tiles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.cook_toom import Transform
from relaxc.targets.llvm.machine import Machine


@dataclass(frozen=True)
class Plan:
    """How a convolution is tiled.

    Attributes:
        rows, columns: the transforms of the two axes.
        group: output channel blocks multiplied together.
        tile: the most tiles in one register tile of the GEMM.
        block: tiles per block; the transformed block should fit in L2.
        by_group: whether threads share out groups of outputs, each with all tiles of all images:
            for few tiles. Else they share out blocks of tiles.
        depth: input channel blocks whose weights are transformed at a time; fewer than all only
            where there is one block.
        parts: tasks that each transform for themselves what all need, data where they take groups
            and weights where they take blocks; 0 where threads share that work.
    """

    rows: Transform
    columns: Transform
    group: int
    tile: int
    block: int
    by_group: bool
    depth: int
    parts: int = 0

    @property
    def positions(self) -> int:
        """Multiplications per tile."""
        return self.rows.size * self.columns.size

    @property
    def taps(self) -> int:
        """Multiplications per pixel of a direct convolution."""
        return self.rows.taps * self.columns.taps

    def tiles(self, spec: ConvSpec) -> tuple[int, int]:
        """Tiles per image, vertically and horizontally."""
        return _tiles(spec, self.rows, self.columns)

    def border(self, spec: ConvSpec) -> tuple[int, int, int, int]:
        """The border that the data must have for whole tiles to be read."""
        down, across = self.tiles(spec)
        top, left = spec.padding[:2]

        def after(transform: Transform, tiles: int, before: int, extent: int) -> int:
            reach = (tiles - 1) * transform.outputs * transform.stride + transform.size
            return max(reach - before - extent, 0)

        bottom = after(self.rows, down, top, spec.in_height)
        return top, left, bottom, after(self.columns, across, left, spec.in_width)


# Kernel size -> outputs per tile on each axis.
_TRANSFORMS = {
    (3, 3): (Transform(4, 3), Transform(4, 3)),
    (5, 5): (Transform(2, 5), Transform(2, 5)),
    (1, 7): (Transform(1, 1), Transform(2, 7)),
    (7, 1): (Transform(2, 7), Transform(1, 1)),
    (1, 3): (Transform(1, 1), Transform(4, 3)),
    (3, 1): (Transform(4, 3), Transform(1, 1)),
}
_SMALL = (Transform(2, 3), Transform(2, 3))
# The most tiles of a block: their products and a panel of weights share the L2 cache.
_LARGEST_BLOCK = 56
# The same where threads share out groups: products alone stay there, data pass through.
_LARGEST_GROUP_BLOCK = 88
# Fewer tiles than these take as long: their products wait for weights. Transforming the weights
# takes as long as so many more.
_FEWEST_TILES, _WEIGHT_TILES = 8, 2
# The fewest tiles that a core should multiply with weights which all cores transform together: it
# gets half of them from the others.
_SMALLEST_SHARE = 16


def winograd_plan(spec: ConvSpec, machine: Machine) -> Plan | None:
    """How to compute a convolution by Winograd's method; None where direct is faster."""
    lanes = machine.lanes
    if spec.dilation != (1, 1) or spec.groups != 1:
        return None
    if spec.in_channels % lanes or spec.out_channels % lanes or spec.in_channels < 2 * lanes:
        return None
    transforms = _TRANSFORMS.get(spec.kernel) if spec.stride == (1, 1) else _strided(spec)
    if transforms is None or min(spec.out_height, spec.out_width) < 4:
        return None
    if transforms == _TRANSFORMS[3, 3] and not _pays(spec):
        transforms = _SMALL
    rows, columns = transforms
    positions = rows.size * columns.size
    out_blocks, in_blocks = spec.out_channels // lanes, spec.in_channels // lanes
    group = next(g for g in (2, 3, 1) if out_blocks % g == 0)
    tile = min((machine.registers - 1 - group) // group, 14 if group > 1 else 24)
    down, across = _tiles(spec, rows, columns)
    block = _block(positions, tile, spec, down * across, machine)
    if not isinstance(spec.batch, int):
        return Plan(rows, columns, group, tile, block, False, in_blocks)
    total = spec.batch * down * across
    blocks = spec.batch * -(-(down * across) // block)
    # Weights that outweigh the data are transformed once, by the thread that multiplies them.
    if blocks >= 4 and 4 * total > spec.out_channels:
        fits = positions * spec.in_channels * spec.out_channels * 4 <= machine.l2_bytes
        parts = _parts(blocks, total, machine) if fits else 0
        return Plan(rows, columns, group, tile, block, False, in_blocks, parts)
    # Maps of one block, or groups that are too few for all cores or leave some without work: these
    # take a block of tiles each. Of few tiles narrower groups.
    few = out_blocks // group < machine.cores
    share = -(-(down * across) // machine.cores)
    prefers_blocks = blocks == 1 and 4 * total > spec.out_channels
    # So that no core reads what another one transformed, where a block's working set allows it.
    panel, product = spec.in_channels * group * lanes, share * group * lanes
    own = 4 * positions * (share * spec.in_channels + panel + product) <= 0.8 * machine.l2_bytes
    if share >= _SMALLEST_SHARE and (
        own or few or prefers_blocks or _is_uneven(out_blocks // group, machine.cores)
    ):
        count = -(-down * across // (share if own else min(share, block)))
        count += -count % machine.cores
        block, parts = -(-down * across // count), _parts(spec.batch * count, total, machine)
        return Plan(rows, columns, group, tile, block, False, in_blocks, parts)
    if few:
        group, tile = 1, min(machine.registers - 2, 24)
    count = -(-total // _LARGEST_GROUP_BLOCK)
    depth = in_blocks
    if count == 1:  # transformed weights stay in L2, products are added up there
        depth = max(2, machine.l2_bytes // 16 // (positions * group * lanes * lanes * 4))
    groups, parts = out_blocks // group, 0
    if count == 1 and positions * total * spec.in_channels * 4 <= 2 * machine.l2_bytes:
        parts = min(groups, 2 * machine.cores)
    return Plan(rows, columns, group, tile, -(-total // count), True, min(depth, in_blocks), parts)


def _parts(blocks: int, tiles: int, machine: Machine) -> int:
    """Tasks that transform all weights for themselves; 0 where that would be most of their work.

    It takes less than getting half of them from another core.
    """
    parts = min(blocks, machine.cores)
    return parts if tiles >= _SMALLEST_SHARE * parts else 0


def _is_uneven(tasks: int, cores: int) -> bool:
    """Whether equal tasks keep cores waiting for more than an eighth of the time."""
    return -(-tasks // cores) * cores > 1.125 * tasks


def plan_variants(spec: ConvSpec, machine: Machine) -> list[Plan]:
    """Other plans for a convolution that Winograd's method may compute; none where it may not.

    Tiles are those of the model, or smaller, so that the error is no larger.
    """
    plan = winograd_plan(spec, machine)
    if plan is None or not isinstance(spec.batch, int):
        return []
    in_blocks, out_blocks = spec.in_channels // machine.lanes, spec.out_channels // machine.lanes
    transforms = [(plan.rows, plan.columns)]
    if spec.kernel == (3, 3) and spec.stride == (1, 1):
        transforms = [_TRANSFORMS[3, 3], _SMALL]
    found = []
    for (rows, columns), group in itertools.product(transforms, (1, 2, 3, 4)):
        if out_blocks % group:
            continue
        down, across = _tiles(spec, rows, columns)
        most = (machine.registers - 1 - group) // group
        positions = rows.size * columns.size
        for by_group in (False, True):
            total = down * across * (spec.batch if by_group else 1)
            least = max(1, -(-total // _LARGEST_BLOCK))
            for count in sorted({least + i for i in range(5)} | {2 * least, 4 * least}):
                block = -(-total // count)
                if block < 4 and count > 1:
                    continue
                depths, shares = {in_blocks}, {0}
                if by_group and count == 1:
                    panel = positions * group * machine.lanes**2 * 4
                    depths |= {
                        min(in_blocks, max(1, machine.l2_bytes // share // panel))
                        for share in (2, 4, 8)
                    }
                    shares |= {min(out_blocks // group, n * machine.cores) for n in (1, 2, 4)}
                for depth, parts in itertools.product(sorted(depths), sorted(shares)):
                    tile = min(most, 14 if group > 1 else 24)
                    found.append(Plan(rows, columns, group, tile, block, by_group, depth, parts))
    return found


def _strided(spec: ConvSpec) -> tuple[Transform, Transform] | None:
    """Even and odd pixels apart: 1.4 times fewer multiplications.

    Tiles of 4 would save more, but their error is 2.6 times that of direct convolution.
    """
    smallest = min(spec.out_height, spec.out_width)
    if spec.kernel != (3, 3) or spec.stride != (2, 2) or smallest < 10:
        return None
    axis = Transform(2, 3, 2)
    return axis, axis


def _tiles(spec: ConvSpec, rows: Transform, columns: Transform) -> tuple[int, int]:
    return -(-spec.out_height // rows.outputs), -(-spec.out_width // columns.outputs)


def _pays(spec: ConvSpec) -> bool:
    """Whether F(4, 3) is worth its larger transforms, on a 3x3 convolution."""
    if not isinstance(spec.batch, int):  # tiles are not counted across images: blocks are small
        return min(spec.out_height, spec.out_width) >= 12

    batch = spec.batch

    def cost(transform: Transform) -> int:
        down, across = _tiles(spec, transform, transform)
        tiles = max(batch * down * across, _FEWEST_TILES)
        return (tiles + _WEIGHT_TILES) * transform.size**2

    return cost(Transform(4, 3)) < cost(Transform(2, 3))


def _block(positions: int, tile: int, spec: ConvSpec, tiles: int, machine: Machine) -> int:
    """Tiles per block: transformed data fit in L2, register tiles divide it, threads share it."""
    per_tile = positions * spec.in_channels * 4
    if per_tile * tiles <= 0.87 * machine.l2_bytes and tiles <= _LARGEST_BLOCK:
        return tiles
    budget = (0.43 if spec.in_channels > 64 else 0.25) * machine.l2_bytes
    best: tuple[float, int] | None = None
    for block in range(12, _LARGEST_BLOCK + 1):
        if per_tile * block > budget and block > tile:
            continue
        count = -(-tiles // block)
        registers = -(-block // tile)
        cost = count * (block + 3.0) + 0.03 * count * (tile * registers - block)
        if best is None or cost < best[0]:
            best = (cost, block)
    block = best[1] if best else 12
    count = -(-tiles // block)
    if count >= 4:
        count += -count % machine.cores
    return -(-tiles // count)
