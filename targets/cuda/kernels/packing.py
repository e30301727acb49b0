"""How weights of products lie in memory: in tiles, as blocks fetch them.

NumPy alone: measuring candidates needs this where the GPU is, without TVM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TilePacking:
    """From (depth, columns) to (columns, depth), zeros up to whole tiles.

    Attributes:
        columns: of a tile.
        block: numbers of the depth that fill a tile's row.
        is_streamed: whether tiles lie one behind the other, each as it will in shared memory: in
            an order of columns by which each thread, which has two of every eight of a product's,
            has eight neighbours.
        row_bytes: of a tile's row: 128 or 64.
    """

    columns: int
    block: int
    is_streamed: bool
    row_bytes: int = 128

    def apply(self, weight: np.ndarray) -> np.ndarray:
        """Pack a matrix."""
        depth, columns = weight.shape
        shape = (_up(columns, self.columns), _up(depth, self.block))
        packed: Any = np.zeros(shape, weight.dtype)
        packed[:columns, :depth] = weight.T
        if not self.is_streamed:
            return np.asarray(packed)
        blocks = packed.reshape(-1, 4, 4, 2, packed.shape[1])
        packed = blocks.transpose(0, 2, 1, 3, 4).reshape(packed.shape)
        count = self.row_bytes // 16
        tiles = packed.reshape(
            -1, self.columns, packed.shape[1] // self.block, count, self.block // count
        )
        tiles = tiles.transpose(0, 2, 1, 3, 4)
        row, chunk = np.arange(self.columns)[:, None], np.arange(count)[None, :]
        # As the hardware permutes chunks: within eight or four rows of 128 bytes.
        place = chunk ^ (row * count // 8 % count)
        swizzled: np.ndarray = np.ascontiguousarray(tiles[:, :, row, place])
        return swizzled.reshape(packed.shape)


@dataclass(frozen=True)
class StagePacking:
    """From (depth, columns) to the bytes of one stage behind the other, as warps fetch them.

    Attributes:
        columns: of a stage.
        groups: stages' worth of columns.
        depth_warps: warps that share the depth.
        depth: numbers of a column, zeros behind the last included.
    """

    columns: int
    groups: int
    depth_warps: int
    depth: int

    def apply(self, weight: np.ndarray) -> np.ndarray:
        """Pack a matrix."""
        depth, columns = weight.shape
        padded: np.ndarray = np.zeros((self.groups * self.columns, self.depth), weight.dtype)
        padded[:columns, :depth] = weight.T
        return self.in_stages(padded)

    def in_stages(self, padded: np.ndarray) -> np.ndarray:
        """(columns, depth) as one row of bytes per stage."""
        parts = padded.reshape(self.groups, self.columns, self.depth_warps, -1)
        moved = np.ascontiguousarray(parts.transpose(0, 2, 1, 3))
        return moved.reshape(self.groups * self.depth_warps, -1).view(np.uint8)


@dataclass(frozen=True)
class Packed:
    """What a constant is.

    Attributes:
        depth, columns: of the matrix.
        dtype: of its numbers, as NumPy has it; of bfloat16, that of the bits.
        packing: how it was packed.
    """

    depth: int
    columns: int
    dtype: str
    packing: TilePacking | StagePacking


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
