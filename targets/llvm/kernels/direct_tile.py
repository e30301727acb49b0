"""Which register tile a direct convolution gets, and how cores share it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from relaxc.targets.llvm.kernels.conv_spec import ConvSpec

# The fewest rows that a core takes weights for.
_FEWEST_ROWS = 4


@dataclass(frozen=True)
class Tile:
    """A register tile.

    Attributes:
        blocks: channel blocks, one vector wide each.
        columns: the most output columns in one tile.
        rows_outer: whether threads share out rows first (big maps) or channels first (big weights).
        prefetch: elements ahead in the weight panel that are fetched meanwhile; 0 fetches none.
            Hides L2 and L3 latency (resnet18: 9 % end to end).
        unroll: input channels per step of the innermost loop.
        pairs: whether the last channel block, at most half of whose lanes exist, has two columns in
            each register: outputs of one in the lower half, of the next in the upper.
        parts: into how many parts the rows are cut, each a core's, that takes channels first in it.
            No core then reads more of the map than it keeps in its cache.
    """

    blocks: int
    columns: int
    rows_outer: bool
    prefetch: int = 1024
    unroll: int = 1
    pairs: bool = False
    parts: int = 1


def choose_tile(
    spec: ConvSpec, lanes: int, registers: int, is_float: bool = True, cores: int = 1
) -> Tile:
    """The tile with the least estimated cycles per output.

    Per step of the reduction a tile of c columns by k blocks needs c * k multiply-adds (two a
    cycle, at least eight in flight), k weight loads and c broadcasts (two loads a cycle).

    Args:
        spec: what is computed.
        lanes, registers: of the machine.
        is_float: whether sums are floating-point numbers, which can be had in pairs.
        cores: that share the rows.
    """
    group_blocks = spec.out_channels // spec.groups // lanes if spec.groups > 1 else None
    out_blocks = group_blocks or -(-spec.out_channels // lanes)
    best: tuple[float, int, int, bool] | None = None
    for blocks, pairs in itertools.product((1, 2, 3, 4, 6), (False, True)):
        if blocks > out_blocks or (group_blocks and group_blocks % blocks):
            continue
        if pairs and not (is_float and can_pair(spec, blocks, lanes)):
            continue
        largest = most_columns(out_blocks, blocks, pairs, registers)
        if largest < 1:
            continue
        columns = -(-spec.out_width // -(-spec.out_width // largest))
        tiles = -(-spec.out_width // columns)
        cycles = 0.0
        for first in range(0, out_blocks, blocks):
            k = min(blocks, out_blocks - first)
            joined = columns // 2 if pairs and first + k == out_blocks else 0
            sums = columns * k - joined
            cycles += tiles * max(
                sums / 2, 4, (columns + k) / 2, (sums + columns + joined + k + 2) / 6.5
            )
        cycles *= 1.02 if blocks == 1 else 1.0
        if best is None or cycles < best[0] - 1e-9:
            best = (cycles, blocks, largest, pairs)
    assert best is not None
    weights = spec.out_channels * spec.in_channels // spec.groups * spec.kernel[0] * spec.kernel[1]
    data = spec.in_channels * spec.in_height * spec.in_width
    rows_outer, is_even = data > weights, spec.out_height % cores == 0
    can_part = not rows_outer and is_even and spec.batch == 1 and spec.groups == 1
    parts = cores if can_part and spec.out_height // cores >= _FEWEST_ROWS else 1
    return Tile(best[1], best[2], rows_outer, pairs=best[3], parts=parts)


def can_pair(spec: ConvSpec, blocks: int, lanes: int) -> bool:
    """Whether `Tile.pairs` applies: the last group of blocks has whole ones beside the half one."""
    out_blocks = -(-spec.out_channels // lanes)
    is_half = 0 < spec.out_channels % lanes <= lanes // 2
    return lanes == 16 and spec.groups == 1 and is_half and out_blocks % blocks != 1 and blocks > 1


def most_columns(out_blocks: int, blocks: int, pairs: bool, registers: int) -> int:
    """Columns of the largest tile that fits the registers."""
    if pairs and blocks >= out_blocks:
        # One register broadcasts, two hold what makes a pair, `blocks` hold weights.
        return min(int((registers - 3 - blocks) / (blocks - 0.5)), 14)
    # One register broadcasts, `blocks` hold weights.
    return min((registers - 1 - blocks) // blocks, 28 if blocks == 1 else 14)


def channel_groups(spec: ConvSpec, tile: Tile, lanes: int) -> tuple[int, int]:
    """Groups of `tile.blocks` channel blocks, and blocks of a last, narrower one or of pairs."""
    full, rest = divmod(-(-spec.out_channels // lanes), tile.blocks)
    return (full - 1, tile.blocks) if tile.pairs and not rest else (full, rest)
