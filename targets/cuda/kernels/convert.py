"""Write the kernel of convert.cu: tensors that stay where they are, as numbers of another type."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from pathlib import Path

from tvm import relax

from relaxc.layout import Layout
from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.elements import type_of
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.domain import as_int, simple

_THREADS, _VECTOR = 256, 8
_HERE = Path(__file__).parent


def lower_convert(func: relax.Function, layouts: Sequence[Layout]) -> Kernel | None:
    """The kernel for a change of type; None where elements move, or are no whole vectors."""
    source, result = layouts
    ty = func.params[0].ty
    if source.kind != result.kind or source.kind == "blocked" or source.element == result.element:
        return None
    if str(ty.dtype.dtype) != "float32":
        return None
    dims = [simple(dim) for dim in ty.shape.values]
    known = functools.reduce(operator.mul, (as_int(dim) or 1 for dim in dims), 1)
    if known % _VECTOR:
        return None
    count = functools.reduce(operator.mul, dims, 1) // _VECTOR
    frame = Frame("convert", func, layouts)
    lines = [
        "#define MODE 0",
        f"#define X_POINTER {frame.pointer(func.params[0])}",
        gemm.prelude(),
        f"typedef {type_of(result.element)} T;",
        (_HERE / "convert.cu").read_text(encoding="utf-8"),
    ]
    blocks = (count + (_THREADS - 1)) // _THREADS
    return frame.finish("\n".join(lines), [blocks], _THREADS, 0, [count])
