"""Write the product of gemv.cu: a few rows with packed weights, as fast as these can be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relaxc.layout import Precision
from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.elements import MODES, element_of
from relaxc.targets.cuda.kernels.frame import TYPES
from relaxc.targets.cuda.kernels.tilings import Tiling

# More rows are worth tensor cores.
MAX_ROWS = 4
THREADS = 128
_HERE = Path(__file__).parent
# Weights are packed as for the products of gemm.cu, without padding of columns.
TILING = Tiling(1, 1, 1, 1)


def source(
    mode: Precision,
    sizes: tuple[int, int, int],
    a: tuple[str, str],
    b: str,
    epilogue: Sequence[str],
) -> str:
    """The translation unit.

    Args:
        mode: how products are computed.
        sizes: rows, columns, depth.
        a: pointer and element of the rows.
        b: pointer of the weights.
        epilogue: C++ on the sums.
    """
    rows, columns, depth = sizes
    pointer, element = a
    text = (_HERE / "gemv.cu").read_text(encoding="utf-8")
    lines = [
        f"#define MODE {MODES.index(mode)}",
        f"#define A_POINTER {pointer}",
        f"#define B_POINTER {b}",
        gemm.prelude(),
        f"typedef {TYPES[element_of(mode)]} T;",
        f"typedef {TYPES[element]} TA;",
        f"constexpr int M = {rows}, N = {columns}, K = {depth}, V = 1;",
        text.replace("EPILOGUE\n", "\n  ".join(epilogue) + "\n"),
    ]
    return "\n".join(lines)


def grid(columns: int) -> list[int]:
    """Blocks of four warps."""
    return [-(-columns // 4)]
