"""Write the tensor-core product of gemm.cu for one shape: its tiling, its source, its launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.layout import Element, Precision
from relaxc.targets.cuda.kernels.frame import TYPES
from relaxc.targets.cuda.machine import Gpu

MODES: tuple[Precision, ...] = ("float16", "bfloat16", "tf32", "float32")
_HERE = Path(__file__).parent
# Blocks that fit on a multiprocessor side by side hide each other's waits.
_STAGES = 3


@dataclass(frozen=True)
class Tiling:
    """How a product is divided.

    Attributes:
        rows, columns: of a block's tile of the result.
        warp_rows, warp_columns: of a warp's.
        speed: what share of the best throughput such blocks reach.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    speed: float

    @property
    def threads(self) -> int:
        """Per block."""
        return self.rows // self.warp_rows * (self.columns // self.warp_columns) * 32

    @property
    def shared_bytes(self) -> int:
        """Tiles of the operands, and later the sums."""
        return max(_STAGES * (self.rows + self.columns) * 128, self.rows * (self.columns + 4) * 4)


# Three products per element take registers: warps of 64 x 32 at most.
_TILINGS = (
    Tiling(128, 128, 64, 32, 1.0),
    Tiling(128, 64, 32, 32, 0.8),
    Tiling(64, 128, 32, 32, 0.8),
    Tiling(64, 64, 32, 16, 0.6),
    Tiling(32, 64, 16, 16, 0.4),
    Tiling(64, 32, 16, 16, 0.4),
    Tiling(32, 32, 16, 16, 0.25),
)
# A typical size for rows that are known at run time only.
_UNKNOWN_ROWS = 1024


def choose_tiling(rows: int | None, columns: int, batch: int, gpu: Gpu) -> Tiling:
    """The tiling with which the busiest multiprocessor is done first."""
    rows = _UNKNOWN_ROWS if rows is None else rows

    def cost(t: Tiling) -> float:
        blocks = -(-rows // t.rows) * -(-columns // t.columns) * batch
        return -(-blocks // gpu.multiprocessors) * t.rows * t.columns / t.speed

    usable = [t for t in _TILINGS if t.shared_bytes <= gpu.shared_bytes]
    return min(usable, key=cost)


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
    switches = [f"MODE {MODES.index(mode)}", *a.switches, *b.switches]
    # Tiles hold the mode's elements: what is stored otherwise is converted one by one.
    for side, operand in (("A", a), ("B", b)):
        if not operand.vectors or operand.element != element:
            switches.append(f"{side}_SCALAR")
    constants = {
        "BM": tiling.rows,
        "BN": tiling.columns,
        "WM": tiling.warp_rows,
        "WN": tiling.warp_columns,
        "STAGES": _STAGES,
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


def prelude() -> str:
    """What kernels on tensor cores share; `MODE` must be defined in front of it."""
    names = ("instructions.cuh", "tensor_cores.cuh")
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


def grid(rows: Any, columns: int, batch: int, tiling: Tiling) -> list[Any]:
    """Blocks; `rows` may be symbolic."""
    tiles = (rows + (tiling.rows - 1)) // tiling.rows * -(-columns // tiling.columns)
    return [tiles, 1, batch]
