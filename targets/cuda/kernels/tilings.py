"""How products on tensor cores are divided among blocks: measured, or by a model of the time."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relaxc.targets.cuda.kernels.elements import Mode, element_bytes
from relaxc.targets.cuda.machine import Gpu

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Tiling:
    """How a product is divided.

    Attributes:
        rows, columns: of a block's tile of the result.
        warp_rows, warp_columns: of a warp's; of four warps' together if `is_joint`.
        stages: tiles of the operands in shared memory.
        is_joint: whether four warps multiply together (Hopper's wgmma).
        split: blocks of a cluster that share a tile of the result, each with a part of the depth.
        share_rows, share_columns: blocks of a cluster below each other, which share tiles of the
            right operand, and beside each other, of the left one; 0 where threads that multiply
            fetch tiles too (gemm.cu, not gemm_streamed.cu).
        row_bytes: of tiles in shared memory: 128, or 64 where the copy engine fetches such rows.
        copiers: times four warps that fetch.
        is_sparse: whether two of every four weights are zero and left out.
        has_rests: whether what TF32 leaves of float32 numbers is multiplied, too: a second tile of
            the right operand.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    stages: int = 3
    is_joint: bool = False
    split: int = 1
    share_rows: int = 0
    share_columns: int = 0
    row_bytes: int = 128
    copiers: int = 1
    is_sparse: bool = False
    has_rests: bool = False

    @property
    def is_streamed(self) -> bool:
        """Whether some warps fetch and others multiply."""
        return self.share_rows > 0

    @property
    def cluster(self) -> int:
        """Blocks of a cluster."""
        return self.share_rows * self.share_columns if self.is_streamed else self.split

    @property
    def teams(self) -> int:
        """Warps that multiply, or groups of four such."""
        return self.rows // self.warp_rows * (self.columns // self.warp_columns)

    @property
    def threads(self) -> int:
        """Per block."""
        fetching = 128 * self.copiers if self.is_streamed else 0
        return self.teams * (128 if self.is_joint else 32) + fetching

    @property
    def shared_bytes(self) -> int:
        """Tiles of the operands, and later the sums; or two barriers for every stage."""
        if self.is_sparse:
            weights = self.columns * (self.row_bytes + 16)
            return self.stages * (2 * self.rows * self.row_bytes + weights + 16)
        if self.has_rests:
            return self.stages * ((self.rows + 2 * self.columns) * self.row_bytes + 24)
        if self.is_streamed:
            return self.stages * ((self.rows + self.columns) * self.row_bytes + 16)
        return max(
            self.stages * (self.rows + self.columns) * 128, self.rows * (self.columns + 4) * 4
        )


# Blocks that fit on a multiprocessor side by side hide each other's waits.
# Three products per element take registers: warps of 64 x 32 at most.
_TILINGS = (
    Tiling(128, 128, 64, 32),
    Tiling(128, 64, 32, 32),
    Tiling(64, 128, 32, 32),
    Tiling(64, 64, 32, 16),
    Tiling(32, 64, 16, 16),
    Tiling(64, 32, 16, 16),
    Tiling(32, 32, 16, 16),
)
_JOINT = (
    Tiling(128, 256, 64, 256, 4, True),
    Tiling(256, 128, 128, 128, 4, True),
    Tiling(128, 192, 64, 192, 4, True),
    Tiling(64, 256, 64, 128, 4, True),
    Tiling(128, 128, 64, 128, 4, True),
    Tiling(128, 128, 64, 128, 3, True),
    Tiling(128, 96, 64, 96, 4, True),
    Tiling(128, 64, 64, 64, 4, True),
    Tiling(64, 128, 64, 128, 4, True),
    Tiling(64, 64, 64, 64, 5, True),
    Tiling(64, 32, 64, 32, 5, True),
)
_STREAMED = (
    Tiling(128, 256, 64, 256, 4, True),
    Tiling(256, 128, 128, 128, 4, True),
    Tiling(192, 192, 64, 192, 4, True),
    Tiling(128, 224, 64, 224, 4, True),
    Tiling(128, 192, 64, 192, 5, True),
    Tiling(128, 160, 64, 160, 6, True),
    Tiling(192, 128, 64, 128, 5, True),
    Tiling(128, 128, 64, 128, 7, True),
    Tiling(128, 96, 64, 96, 8, True),
    Tiling(256, 64, 128, 64, 5, True),
    Tiling(256, 64, 64, 64, 5, True),
    Tiling(192, 64, 64, 64, 7, True),
    Tiling(128, 64, 64, 64, 9, True),
    Tiling(64, 256, 64, 256, 5, True),
    Tiling(64, 192, 64, 192, 7, True),
    Tiling(64, 128, 64, 128, 9, True),
    Tiling(64, 96, 64, 96, 10, True),
    Tiling(64, 64, 64, 64, 12, True),
)
# Blocks below each other, and beside each other, of a cluster.
# Sums of one tile and of all: at most 96 of each.
_WITH_RESTS = tuple(
    Tiling(rows, columns, 64, columns, stages, True, has_rests=True)
    for rows, columns, stages in (
        *((128, 192, 3), (128, 160, 3), (128, 128, 4), (128, 96, 5), (128, 64, 7)),
        *((192, 96, 4), (192, 64, 5), (64, 192, 4), (64, 128, 5), (64, 96, 7), (64, 64, 9)),
    )
)
_SHARES = ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2))
_SPLITS = (1, 2, 4, 8)
# A typical size for rows that are known at run time only.
_UNKNOWN_ROWS = 1024
# Of one multiprocessor of an H100, in nanoseconds, fitted to a thousand measured kernels, and to a
# hundred on an H200 that begin while the one before ends: to begin and end a block; until a tile
# has come, while others are multiplied; to agree with other blocks, once and for 4096 of another
# block's sums. Per nanosecond: sums written, bytes from the second-level cache, products of
# half-width numbers by wgmma and by mma.
_BLOCK_NS, _ARRIVAL_NS, _CLUSTER_NS, _SHARE_NS = 1000.0, 650.0, 785.0, 550.0
_SUMS, _BYTES, _JOINT_PRODUCTS, _WARP_PRODUCTS = 6.6, 60.0, 2070.0, 1260.0

# The same for those that are streamed, fitted to six hundred: once; for a tile however small; for a
# cluster. Per nanosecond: sums, bytes by threads, products, bytes by the copy engine where all
# multiprocessors fetch, and at most.
_STREAMED_NS, _STREAMED_TILE_NS, _CLUSTERED_NS = 1014.0, 140.0, 400.0
_STREAMED_SUMS, _COPIED_BYTES, _STREAMED_PRODUCTS = 5.0, 26.0, 3386.0
_FETCHED_BYTES, _MOST_FETCHED_BYTES = 70.0, 110.0
# And of float32 numbers whose rests are multiplied, too: for a tile, and products per nanosecond.
_REST_TILE_NS, _REST_PRODUCTS = 290.0, 3940.0


def choose_tiling(
    rows: int | None,
    columns: int,
    depth: int,
    batch: int,
    gpu: Gpu,
    mode: Mode,
    packed: bool,
    is_fetched: bool = False,
) -> Tiling:
    """The tiling with which the busiest multiprocessor is done first.

    Args:
        rows, columns, depth: of the product; None for rows that are known at run time only.
        batch: how many such products.
        gpu: the architecture.
        mode: how products are computed.
        packed: whether the right operand is packed, as `pack_weights` does.
        is_fetched: whether the copy engine can fetch the left one: a matrix of whole vectors, or
            patches of many channels.
    """
    if rows is not None and packed and batch == 1 and gpu.has_joint_products:
        known = _measured()
        found = known.get((table_of(mode), rows, columns, depth))
        if mode == "float8":  # as many bytes, multiplied as fast
            found = found or known.get(("int8", rows, columns, depth))
        # A product and a convolution may have the same sizes.
        if found and (is_fetched or not _needs_engine(found)):
            return found
    return ranked_tilings(rows, columns, depth, batch, gpu, mode, packed, is_fetched)[0]


def ranked_tilings(
    rows: int | None,
    columns: int,
    depth: int,
    batch: int,
    gpu: Gpu,
    mode: Mode,
    packed: bool,
    is_fetched: bool = False,
) -> list[Tiling]:
    """All that are possible, the fastest first, as the model of the time has it.

    Args:
        rows, columns, depth, batch, gpu, mode, packed, is_fetched: as of `choose_tiling`.
    """
    timed = timed_tilings(rows, columns, depth, batch, gpu, mode, packed, is_fetched)
    return sorted(timed, key=timed.__getitem__)


def timed_tilings(
    rows: int | None,
    columns: int,
    depth: int,
    batch: int,
    gpu: Gpu,
    mode: Mode,
    packed: bool,
    is_fetched: bool = False,
) -> dict[Tiling, float]:
    """All that are possible, and how many nanoseconds a product takes, by the model.

    Args:
        rows, columns, depth, batch, gpu, mode, packed, is_fetched: as of `choose_tiling`.
    """
    rows = _UNKNOWN_ROWS if rows is None else rows
    # Of TF32, a tile has half as many numbers, multiplied at half the speed.
    has_joint = element_bytes(mode) <= 2 or mode == "tf32"
    tiles = -(-depth * element_bytes(mode) // 128)
    # More instructions, for two TF32 numbers and for products of pairs. Alone, these take eight
    # times as long; but behind kernels with few large blocks, others begin unevenly.
    slowness = {"float32": 6.0, "tf32": 1.5}.get(mode, 1.0)

    def nanoseconds(t: Tiling) -> float:
        if t.is_streamed:
            return _streamed_nanoseconds(t, rows, columns, tiles, gpu, is_fetched)
        blocks = -(-rows // t.rows) * -(-columns // t.columns) * batch * t.split
        busy = -(-blocks // gpu.multiprocessors)
        threads = min(2048 // t.threads, 65536 // (t.threads * 128))
        beside = max(1, min(threads, gpu.shared_bytes // t.shared_bytes))
        products = t.rows * t.columns * (64 if has_joint else 32)
        rate = _JOINT_PRODUCTS if t.is_joint else _WARP_PRODUCTS / slowness
        step = max((t.rows + t.columns) * 128 / _BYTES, products / rate)
        share = -(-tiles // t.split)
        ends = t.rows * t.columns / _SUMS
        # Joint products lag one tile behind.
        ahead = t.stages - (2 if t.is_joint else 1)
        alone = _BLOCK_NS + ends + share * max(step, _ARRIVAL_NS / ahead)
        if t.split > 1:
            alone += _CLUSTER_NS + _SHARE_NS * (t.split - 1) * t.rows * t.columns / 4096
        return max(-(-busy // beside) * alone, busy * (share * step + ends) + _BLOCK_NS)

    joint = _JOINT if has_joint and packed and gpu.has_joint_products else ()
    candidates = [*joint, *_TILINGS]
    if gpu.has_clusters and columns % 4 == 0:
        splits = [s for s in _SPLITS if s <= tiles]
        candidates = [replace(t, split=s) for t in candidates for s in splits]
    if packed and gpu.has_joint_products and batch == 1 and columns % 8 == 0:
        candidates += _streamed(is_fetched, mode == "float32")
    usable: list[Tiling] = [t for t in candidates if t.shared_bytes <= gpu.shared_bytes]
    return {t: nanoseconds(t) for t in usable}


def table_of(mode: Mode) -> str:
    """Under which name a mode's tilings are kept: halves of both kinds have the same."""
    if mode == "float8":
        return mode
    return {1: "int8", 2: "float16"}.get(element_bytes(mode), "float32")


def label(rows: Any, columns: int, depth: int, mode: Mode | None = None) -> str:
    """A product's sizes, as names of kernels have them; behind them, if it is in eight bits."""
    text = f"{rows if isinstance(rows, int) else 'any'}x{columns}x{depth}"
    return f"{text}_fp8" if mode == "float8" else text


def resident_clusters(tiling: Tiling, gpu: Gpu) -> int:
    """How many clusters run at the same time.

    A cluster lies within one part of the GPU: large ones leave multiprocessors over. On an H100,
    clusters of four and of eight fit on 112 of its 132.
    """
    usable = gpu.multiprocessors if tiling.cluster <= 2 else gpu.multiprocessors // 16 * 14
    return max(1, usable // tiling.cluster)


def _streamed_nanoseconds(
    t: Tiling, rows: int, columns: int, tiles: int, gpu: Gpu, is_fetched: bool
) -> float:
    steps = -(-rows // (t.rows * t.share_rows)) * -(-columns // (t.columns * t.share_columns))
    rounds = -(-steps // resident_clusters(t, gpu))
    share = min(1.0, steps * t.cluster / gpu.multiprocessors)
    rate = min(_FETCHED_BYTES / share, _MOST_FETCHED_BYTES)
    fetched = t.rows * 128 / t.share_columns / (rate if is_fetched else _COPIED_BYTES)
    fetched += t.columns * 128 / t.share_rows / rate
    multiplied = t.rows * t.columns * 64 / _STREAMED_PRODUCTS
    if t.has_rests:
        multiplied = _REST_TILE_NS + t.rows * t.columns * 3 * 64 / _REST_PRODUCTS
    step = max(fetched, multiplied, _STREAMED_TILE_NS)
    once = _STREAMED_NS + (_CLUSTERED_NS if t.cluster > 1 else 0)
    return once + rounds * (tiles * step + t.rows * t.columns / _STREAMED_SUMS)


def _needs_engine(t: Tiling) -> bool:
    """Whether only the copy engine will do: it serves several blocks, and takes no registers."""
    fills_registers = t.has_rests and t.teams > 1 and t.warp_columns > 160
    return t.is_streamed and (t.share_columns > 1 or t.teams > 2 or fills_registers)


@functools.cache
def _streamed(is_fetched: bool, has_rests: bool) -> list[Tiling]:
    return [
        replace(t, share_rows=m, share_columns=n)
        for t in (_WITH_RESTS if has_rests else _STREAMED)
        for m, n in _SHARES
        if is_fetched or not _needs_engine(replace(t, share_rows=m, share_columns=n))
    ]


@functools.cache
def _measured() -> dict[tuple[str, int, int, int], Tiling]:
    """The fastest of the likely tilings, measured for products of well-known networks."""
    text = (_HERE / "measured_tilings.json").read_text(encoding="utf-8")
    tables = {k: v for k, v in json.loads(text).items() if isinstance(v, dict)}
    found = {}
    for mode, table in tables.items():
        for key, (m, n, warp_m, warp_n, stages, is_joint, *cluster) in table.items():
            rows, columns, depth = map(int, key.split("x"))
            tiling = Tiling(m, n, warp_m, warp_n, stages, bool(is_joint), *cluster)
            found[mode, rows, columns, depth] = tiling
    return found
