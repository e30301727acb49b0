"""What GPUs that compute one model together share: laid out here, for kernels and the runtime.

Each GPU has an area, which the others write to:

    counters    of rounds, one per block of this GPU's kernels (32 bits each)
    flags       per block and GPU, written by that GPU: the round whose data are there
    small       lines of 16 bytes, each of two words and the round that they belong to, twice
    large       data alone; flags say when they are there

Data are kept per block, for two rounds in turn, per GPU that sent them. An area begins as zeros.

The communicator tells a GPU's kernels where they are: RANK, how many there are (RANKS), IS_JOINED
(else kernels neither send nor wait: nothing is added) and the addresses of all areas, 64 bits each.
In the artifact it is a weight that holds a text; the runtime writes numbers over it.
"""

from __future__ import annotations

MOST_RANKS = 8
RANK, RANKS, IS_JOINED, AREAS = 0, 1, 2, 3
# As many bytes as the numbers.
PLACEHOLDER = b"relaxc: the runtime writes here where the memory that GPUs share is".ljust(
    8 * (AREAS + MOST_RANKS), b"."
)

# Kernels have up to so many blocks; of each GPU, so many bytes are kept for a block and a round.
SMALL_BLOCKS, SMALL_BYTES = 64, 1 << 13
LARGE_BLOCKS, LARGE_BYTES = 256, 1 << 14

COUNTERS = 0
FLAGS = COUNTERS + 4 * (SMALL_BLOCKS + LARGE_BLOCKS)
_HEADER = 1 << 14
SMALL = _HEADER
assert FLAGS + 4 * LARGE_BLOCKS * MOST_RANKS <= _HEADER


def large(ranks: int) -> int:
    """Where the data of large messages begin in an area."""
    return SMALL + 2 * SMALL_BLOCKS * ranks * SMALL_BYTES


def area_bytes(ranks: int) -> int:
    """The size of an area."""
    return large(ranks) + 2 * LARGE_BLOCKS * ranks * LARGE_BYTES
