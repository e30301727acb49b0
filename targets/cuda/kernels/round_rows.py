"""Write the kernel of round_rows.cu: rows as e4m3, for products in eight bits."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from pathlib import Path

from tvm import relax

from relaxc.layout import ROWS_E4M3, Layout
from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.elements import type_of
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.domain import simple

_HERE = Path(__file__).parent
_THREADS, _VECTOR = 256, 8
# A thread holds 128 numbers at most, as they are stored.
MAX_DEPTH = _THREADS * 128


def lower_round_rows(func: relax.Function, layouts: Sequence[Layout]) -> Kernel | None:
    """The kernel that rounds rows of floats; None for other conversions."""
    source, result = layouts
    if result.element != ROWS_E4M3:
        return None
    assert source.kind == "plain", "choose-layout makes it so"
    *leading, last = func.params[0].ty.shape.values
    size = int(last)
    rows = functools.reduce(operator.mul, map(simple, leading), 1)
    # Few vectors per thread: rows are read at once, and there are few of them.
    team = next(t for t in (32, 64, 128, 256) if size <= t * _VECTOR * 2 or t == _THREADS)
    frame = Frame("round", func, layouts)
    lines = [
        "#define MODE 0",
        f"#define X_POINTER {frame.pointer(func.params[0])}",
        gemm.prelude(),
        f"typedef {type_of(source.element)} Source;",
        f"constexpr int D = {size}, TEAM = {team}, V = {_VECTOR};",
        (_HERE / "round_rows.cu").read_text(encoding="utf-8"),
    ]
    per_block = _THREADS // team
    blocks = (rows + (per_block - 1)) // per_block
    return frame.finish("\n".join(lines), [blocks], _THREADS, _THREADS // 32 * 4, [rows])
