"""How weights lie in memory of which two of every four neighbours are zero.

Of every four, the two that are left, and where they belong: two bits each, which threads have in
registers. Columns lie in such an order that a thread gets four neighbours.
Reference: NVIDIA, PTX ISA 9.0 (wgmma.mma_async.sp, sparse matrix storage).
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Numbers of the depth in a tile; columns of four warps together.
_DEPTH, _TEAM = 128, 128


def has_two_of_four(weight: np.ndarray) -> bool:
    """Whether two of every four neighbours in a column are zero."""
    depth, columns = weight.shape
    if depth % 4:
        return False
    counts = (weight != 0).reshape(depth // 4, 4, columns).sum(axis=1)
    return bool(counts.max(initial=0) <= 2)


def pack_two_of_four(weight: np.ndarray, columns: int) -> np.ndarray:
    """(depth, columns) of halves, as their bits, as bytes: tiles of so many columns.

    Each has what is left of its columns, in rows of 128 bytes whose chunks are permuted as the
    hardware does, and then four words for each thread.
    """
    whole: Any = np.zeros((_up(weight.shape[1], columns), _up(weight.shape[0], _DEPTH)), np.uint16)
    whole[: weight.shape[1], : weight.shape[0]] = weight.T
    fours = whole.reshape(len(whole), -1, 4)
    # Those that are not zero come first, in their order; of less than two, some zero is one.
    places = np.sort(np.argsort(fours & 0x7FFF == 0, axis=-1, kind="stable")[..., :2], axis=-1)
    left = np.take_along_axis(fours, places, axis=-1).reshape(len(whole), -1)
    bits = (places[..., 0] | places[..., 1] << 2).astype(np.uint32)
    left, bits = _reordered(left), _reordered(bits)
    depth_tiles = whole.shape[1] // _DEPTH
    tiles = left.reshape(-1, columns, depth_tiles, 8, 8).transpose(0, 2, 1, 3, 4)
    row, chunk = np.arange(columns)[:, None], np.arange(8)[None, :]
    numbers = np.ascontiguousarray(tiles[:, :, row, chunk ^ row % 8]).view(np.uint8)
    words = _words(bits, columns, depth_tiles)
    parts = [
        part.reshape(-1, depth_tiles, size)
        for part, size in ((numbers, columns * 128), (words.view(np.uint8), columns * 16))
    ]
    return np.ascontiguousarray(np.concatenate(parts, axis=2)).reshape(len(parts[0]), -1)


def _reordered(array: np.ndarray) -> np.ndarray:
    """From columns in order: warp, row of eight, then four; to rows as tensor cores have them."""
    parts = array.reshape(-1, 4, 8, 2, 2, array.shape[1])
    return parts.transpose(0, 3, 1, 4, 2, 5).reshape(array.shape)


def _words(bits: np.ndarray, columns: int, depth_tiles: int) -> np.ndarray:
    """Of two steps of 32 numbers, the first is told by two threads of four, the second by others.

    Each knows 16 numbers of a row, and of the eighth row below it.
    """
    # tile, team, 64 rows, warp, upper or lower, row, tile of the depth, two steps, step, 16, 4
    parts = bits.reshape(-1, columns // _TEAM, 2, 4, 2, 8, depth_tiles, 2, 2, 2, 4)
    shift = np.arange(2, dtype=np.uint32)[:, None] * 16 + np.arange(4, dtype=np.uint32) * 4
    shift = shift.reshape(2, 1, 1, 1, 1, 1, 4)
    words = np.bitwise_or.reduce(np.bitwise_or.reduce(parts << shift, axis=10), axis=4)
    # tile, team, 64 rows, warp, row, tile of the depth, two steps, step, 16
    return np.ascontiguousarray(words.transpose(0, 5, 1, 3, 4, 7, 8, 2, 6).astype(np.uint32))


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
