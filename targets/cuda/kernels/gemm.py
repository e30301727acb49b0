"""Write the tensor-core product of gemm.cu for one shape: its tiling, its source, its launch."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.layout import Element, Precision
from relaxc.targets.cuda.kernels.frame import TYPES
from relaxc.targets.cuda.machine import Gpu

MODES: tuple[Precision, ...] = ("float16", "bfloat16", "tf32", "float32")
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
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    stages: int = 3
    is_joint: bool = False
    split: int = 1

    @property
    def threads(self) -> int:
        """Per block."""
        teams = self.rows // self.warp_rows * (self.columns // self.warp_columns)
        return teams * (128 if self.is_joint else 32)

    @property
    def shared_bytes(self) -> int:
        """Tiles of the operands, and later the sums."""
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
_SPLITS = (1, 2, 4, 8)
# A typical size for rows that are known at run time only.
_UNKNOWN_ROWS = 1024
# Of one multiprocessor of an H100, in nanoseconds, fitted to a thousand measured kernels: to begin
# and end a block; for a tile whose predecessors hide nothing; to agree with other blocks, once and
# for 4096 of another block's sums. Per nanosecond: sums written, bytes from the second-level
# cache, products of half-width numbers by wgmma and by mma.
_BLOCK_NS, _TILE_NS, _CLUSTER_NS, _SHARE_NS = 2073.0, 70.0, 785.0, 183.0
_SUMS, _BYTES, _JOINT_PRODUCTS, _WARP_PRODUCTS = 6.6, 45.0, 2070.0, 1260.0


def choose_tiling(
    rows: int | None, columns: int, depth: int, batch: int, gpu: Gpu, mode: Precision, packed: bool
) -> Tiling:
    """The tiling with which the busiest multiprocessor is done first.

    Args:
        rows, columns, depth: of the product; None for rows that are known at run time only.
        batch: how many such products.
        gpu: the architecture.
        mode: how products are computed.
        packed: whether the right operand is packed, as `pack_weights` does.
    """
    if rows is not None and packed and batch == 1 and gpu.has_joint_products:
        found = _measured().get((rows, columns, depth))
        if found and element_bytes(mode) == 2:
            return found
    rows = _UNKNOWN_ROWS if rows is None else rows
    is_half = element_bytes(mode) == 2
    tiles = -(-depth * element_bytes(mode) // 128)
    # Two, or six times as many instructions, for two TF32 numbers and for products of pairs.
    slowness = {"float32": 6.0, "tf32": 2.0}.get(mode, 1.0)

    def nanoseconds(t: Tiling) -> float:
        blocks = -(-rows // t.rows) * -(-columns // t.columns) * batch * t.split
        busy = -(-blocks // gpu.multiprocessors)
        threads = min(2048 // t.threads, 65536 // (t.threads * 128))
        beside = max(1, min(threads, gpu.shared_bytes // t.shared_bytes))
        products = t.rows * t.columns * (64 if is_half else 32)
        rate = _JOINT_PRODUCTS if t.is_joint else _WARP_PRODUCTS
        step = max((t.rows + t.columns) * 128 / _BYTES, slowness * products / rate)
        share = -(-tiles // t.split)
        ends = t.rows * t.columns / _SUMS
        alone = _BLOCK_NS + ends + share * max(step, _TILE_NS)
        if t.split > 1:
            alone += _CLUSTER_NS + _SHARE_NS * (t.split - 1) * t.rows * t.columns / 4096
        return max(-(-busy // beside) * alone, busy * (share * step + ends) + _BLOCK_NS)

    joint = _JOINT if is_half and packed and gpu.has_joint_products else ()
    candidates = [*joint, *_TILINGS]
    if gpu.has_clusters and columns % 4 == 0:
        splits = [s for s in _SPLITS if s <= tiles]
        candidates = [replace(t, split=s) for t in candidates for s in splits]
    usable: list[Tiling] = [t for t in candidates if t.shared_bytes <= gpu.shared_bytes]
    return min(usable, key=nanoseconds)


@functools.cache
def _measured() -> dict[tuple[int, int, int], Tiling]:
    """The fastest of the likely tilings, measured for products of well-known networks."""
    text = (_HERE / "measured_tilings.json").read_text(encoding="utf-8")
    *_, table = json.loads(text).values()
    found = {}
    for key, (m, n, warp_m, warp_n, stages, is_joint, split) in table.items():
        rows, columns, depth = map(int, key.split("x"))
        tiling = Tiling(m, n, warp_m, warp_n, stages, bool(is_joint), split)
        found[rows, columns, depth] = tiling
    return found


def pack_weights(weight: np.ndarray, tiling: Tiling, mode: Precision) -> np.ndarray:
    """(depth, columns) as (columns, depth), zeros up to whole tiles."""
    depth, columns = weight.shape
    block = 128 // element_bytes(mode)
    packed = np.zeros((_up(columns, tiling.columns), _up(depth, block)), np.float32)
    packed[:columns, :depth] = weight.T
    return packed


def element_of(mode: Precision) -> Element:
    """How operands lie in memory."""
    return mode if mode in ("float16", "bfloat16") else "float32"  # type: ignore[return-value]


def element_bytes(mode: Precision) -> int:
    """Bytes of an operand's element."""
    return 2 if mode in ("float16", "bfloat16") else 4


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Operand:
    """One side of a product.

    Attributes:
        pointer: its name in C++.
        element: how it is stored.
        vectors: whether 16 bytes at a time can be copied as they are.
        constants: what gemm.cu must know of its layout.
        switches: macros to define.
    """

    pointer: str
    element: str
    vectors: bool
    constants: dict[str, int]
    switches: tuple[str, ...] = ()


def source(
    mode: Precision,
    tiling: Tiling,
    columns: int,
    depth: int,
    a: Operand,
    b: Operand,
    vector: int,
    epilogue: Sequence[str],
) -> str:
    """The translation unit."""
    element = element_of(mode)
    switches = [f"MODE {MODES.index(mode)}", f"SPLIT {tiling.split}", *a.switches, *b.switches]
    if tiling.is_joint:
        switches += [f"WGMMA_COLUMNS {tiling.warp_columns}", _wgmma(mode, tiling.warp_columns)]
    # Tiles hold the mode's elements: what is stored otherwise is converted one by one.
    for side, operand in (("A", a), ("B", b)):
        if not operand.vectors or operand.element != element:
            switches.append(f"{side}_SCALAR")
    constants = {
        "BM": tiling.rows,
        "BN": tiling.columns,
        "WM": tiling.warp_rows,
        "WN": tiling.warp_columns,
        "STAGES": tiling.stages,
        "N": columns,
        "K": depth,
        "V": vector,
        **a.constants,
        **b.constants,
    }
    return "\n".join(
        [
            *(f"#define {switch}" for switch in switches),
            prelude(),
            f"typedef {TYPES[element]} T;",
            f"typedef {TYPES[a.element]} TA;",
            f"typedef {TYPES[b.element]} TB;",
            *(f"constexpr int {name} = {value};" for name, value in constants.items()),
            (_HERE / "gemm.cu")
            .read_text(encoding="utf-8")
            .replace("EPILOGUE\n", "\n    ".join(epilogue) + "\n")
            .replace("TA* a = A +", f"TA* a = {a.pointer} +")
            .replace("TB* b = B +", f"TB* b = {b.pointer} +"),
        ]
    )


def _wgmma(mode: Precision, columns: int) -> str:
    """The macro for one instruction, which has all of a thread's sums as its operands."""
    count = columns // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    element = {"float16": "f16", "bfloat16": "bf16"}[mode]
    shape = f"m64n{columns}k16.f32.{element}.{element}"
    text = (
        f"wgmma.mma_async.sync.aligned.{shape} {{{sums}}}, %{count}, %{count + 1}, p, 1, 1, 0, 0;"
    )
    outputs = ", ".join(f'"+f"(c[{i}])' for i in range(count))
    return (
        f'WGMMA asm volatile("{{.reg .pred p; setp.ne.b32 p, 1, 0; {text}}}" '
        f': {outputs} : "l"(at), "l"(bt));'
    )


def prelude() -> str:
    """What kernels on tensor cores share; `MODE` must be defined in front of it."""
    names = ("instructions.cuh", "tensor_cores.cuh")
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


def grid(rows: Any, columns: int, batch: int, tiling: Tiling) -> list[Any]:
    """Blocks; `rows` may be symbolic."""
    tiles = (rows + (tiling.rows - 1)) // tiling.rows * -(-columns // tiling.columns)
    return [tiles * tiling.split, 1, batch]
