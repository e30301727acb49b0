"""Write the product of gemv.cu: a few rows with packed weights, as fast as these can be read."""

from __future__ import annotations

from pathlib import Path

from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.elements import element_width, type_of
from relaxc.targets.cuda.kernels.epilogue import EpilogueText
from relaxc.targets.cuda.kernels.tilings import Tiling

# More rows are worth tensor cores.
MAX_ROWS = 4
# Rows that take more are read by every warp.
_MOST_SHARED = 64 << 10
THREADS = 128
_HERE = Path(__file__).parent
# Weights are packed as for the products of gemm.cu, without padding of columns.
TILING = Tiling(1, 1, 1, 1)


def source(
    sizes: tuple[int, int, int],
    a: tuple[str, str],
    b: tuple[str, str],
    epilogue: EpilogueText,
) -> str:
    """The translation unit.

    Args:
        sizes: rows, columns, depth.
        a: pointer and element of the rows.
        b: pointer and element of the weights.
        epilogue: C++ on the sums.
    """
    rows, columns, depth = sizes
    pointer, element = a
    place, weights = b
    text = (_HERE / "gemv.cu").read_text(encoding="utf-8")
    lines = [
        "#define MODE 0",
        f"#define A_POINTER {pointer}",
        f"#define B_POINTER {place}",
        gemm.prelude(),
        f"typedef {type_of(weights)} T;",
        f"typedef {type_of(element)} TA;",
        f"constexpr int M = {rows}, N = {columns}, K = {depth}, V = 1;",
        f"constexpr bool IN_SHARED = {int(shared_bytes(sizes, element) > 0)};",
        epilogue.alone(text),
    ]
    return "\n".join(lines)


def grid(columns: int) -> list[int]:
    """Blocks of four warps, of two columns each."""
    return [-(-columns // 8)]


def shared_bytes(sizes: tuple[int, int, int], element: str) -> int:
    """Shared memory for the rows; none where they are no whole vectors, or too long."""
    rows, _, depth = sizes
    size = rows * depth * element_width(element)
    return size if depth % 16 == 0 and size <= _MOST_SHARED else 0
