"""Which ways there are to compute a convolution, as choices that tuning can make.

The first choice of each space is what the analytic models choose. Every choice computes the same
sums; Winograd's method is offered for no other tiles than the model may choose, so that errors stay
within the same bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace

from relaxc.layout import Element
from relaxc.targets.llvm.kernels import conv_depthwise, direct_tile
from relaxc.targets.llvm.kernels.builder import even_tiles
from relaxc.targets.llvm.kernels.conv_depthwise import DepthwiseTile
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.direct_tile import Tile
from relaxc.targets.llvm.kernels.winograd_plan import Plan, plan_variants, winograd_plan
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.tuning.task import Choice

# Bumped whenever a choice comes to mean other code.
VERSION = 4

_BLOCKS = (1, 2, 3, 4, 6)
_PREFETCHES = (1024, 0, 256)
_UNROLLS = (1, 2)


def direct_choice(tile: Tile) -> Choice:
    """A direct convolution with this tile."""
    return {"algorithm": "direct", **asdict(tile)}


def winograd_choice(plan: Plan) -> Choice:
    """Winograd's method with this plan."""
    return {
        "algorithm": "winograd",
        "outputs": max(plan.rows.outputs, plan.columns.outputs),
        "group": plan.group,
        "tile": plan.tile,
        "block": plan.block,
        "by_group": plan.by_group,
        "depth": plan.depth,
        "parts": plan.parts,
    }


def depthwise_choice(tile: DepthwiseTile) -> Choice:
    """A depthwise convolution with this tile."""
    return {"algorithm": "depthwise", **asdict(tile)}


def tile_of(choice: Choice) -> Tile:
    """What `direct_choice` was made from."""
    return Tile(**{k: v for k, v in choice.items() if k != "algorithm"})  # type: ignore[arg-type]


def depthwise_tile_of(choice: Choice) -> DepthwiseTile:
    """What `depthwise_choice` was made from."""
    fields = {k: v for k, v in choice.items() if k != "algorithm"}
    return DepthwiseTile(**fields)  # type: ignore[arg-type]


def plan_of(choice: Choice, spec: ConvSpec, machine: Machine) -> Plan:
    """What `winograd_choice` was made from."""
    plans = (winograd_plan(spec, machine), *plan_variants(spec, machine))
    return next(p for p in plans if p is not None and winograd_choice(p) == choice)


def conv2d_space(
    spec: ConvSpec, plan: Plan | None, element: Element, machine: Machine
) -> list[Choice]:
    """All choices.

    Args:
        spec: what is computed.
        plan: of Winograd's method, if the model chooses that.
        element: how the data are stored.
        machine: the CPU.
    """
    if spec.is_depthwise:
        first = conv_depthwise.choose_tile(spec, machine.lanes)
        tiles = [first, *_depthwise_tiles(spec, first, machine)]
        return unique([depthwise_choice(tile) for tile in tiles])
    is_float = element in ("float32", "bfloat16")
    tile = direct_tile.choose_tile(spec, machine.lanes, machine.registers, is_float, machine.cores)
    direct = [direct_choice(t) for t in (tile, *direct_tiles(spec, tile, is_float, machine))]
    if element != "float32" and plan is None:
        return unique(direct)
    winograd = [winograd_choice(p) for p in plan_variants(spec, machine)]
    if plan is None:
        return unique([*direct, *winograd])
    return unique([winograd_choice(plan), *winograd, *direct])


def unique(choices: list[Choice]) -> list[Choice]:
    """Each of them once, in order."""
    found: dict[tuple[tuple[str, object], ...], Choice] = {}
    for choice in choices:
        found.setdefault(tuple(choice.items()), choice)
    return list(found.values())


def direct_tiles(spec: ConvSpec, first: Tile, is_float: bool, machine: Machine) -> Iterator[Tile]:
    """Tiles of a direct convolution that spill nothing; `first` is what the model chooses."""
    whole = spec.out_channels // spec.groups // machine.lanes if spec.groups > 1 else None
    out_blocks = whole or -(-spec.out_channels // machine.lanes)
    for blocks, pairs in itertools.product(_BLOCKS, (False, True)):
        if blocks > out_blocks or (whole and whole % blocks):
            continue
        if pairs and not (is_float and direct_tile.can_pair(spec, blocks, machine.lanes)):
            continue
        largest = (machine.registers - 1 - blocks) // blocks
        if pairs:
            largest = direct_tile.most_columns(out_blocks, blocks, pairs, machine.registers)
        largest = min(largest, 28)
        if largest < 1:
            continue
        least = -(-spec.out_width // largest)
        for tiles in range(least, min(least + 3, spec.out_width) + 1):
            # The analytic model names the largest size; any other name of the same tiles is one.
            columns = -(-spec.out_width // tiles)
            if even_tiles(spec.out_width, columns) == even_tiles(spec.out_width, first.columns):
                is_first = (blocks, pairs) == (first.blocks, first.pairs)
                columns = first.columns if is_first else columns
            for rows_outer, prefetch, unroll in itertools.product(
                (first.rows_outer, not first.rows_outer), _PREFETCHES, _UNROLLS
            ):
                for parts in {1} if rows_outer else {1, first.parts}:
                    yield Tile(blocks, columns, rows_outer, prefetch, unroll, pairs, parts)


def _depthwise_tiles(
    spec: ConvSpec, first: DepthwiseTile, machine: Machine
) -> Iterator[DepthwiseTile]:
    taps = spec.kernel[0] * spec.kernel[1]
    for rows, parts, keep in itertools.product((1, 2, 3, 4), (1, 2, 4, 8, 16), (True, False)):
        room = machine.registers - 2 - (taps if keep else spec.kernel[1])
        if rows > spec.out_height or parts > spec.out_height or room < rows:
            continue
        largest = min(room // rows, 14, spec.out_width)
        counts = {-(-spec.out_width // c) for c in range(3, largest + 1)} or {spec.out_width}
        for columns in sorted({-(-spec.out_width // count) for count in counts}):
            yield replace(first, rows=rows, columns=columns, parts=parts, keep=keep)
