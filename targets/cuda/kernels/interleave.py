"""Write the kernel of interleave.cu: maps of few channels, pixel after pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tvm import relax

from relaxc.layout import Layout
from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.elements import element_width, type_of
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.domain import simple

# Channels of a pixel in memory.
CHANNELS = 4
_THREADS = 256
# That a thread moves, where channels lie apart.
_PIXELS = 4
# Of bytes per element: what holds a pixel.
_BITS = {1: "unsigned", 2: "uint2", 4: "uint4"}
_HERE = Path(__file__).parent


def lower_interleave(func: relax.Function, layouts: Sequence[Layout]) -> Kernel | None:
    """The kernel for a move of a map into blocks of channels; None for other moves."""
    source, result = layouts
    if result.kind != "blocked":
        return None
    shape = list(func.params[0].ty.shape.values)
    channels, height, width = (int(dim) for dim in shape[1:])
    plane = height * width
    strides = (1, channels) if source.kind == "last" else (plane, 1)
    per_thread = _PIXELS if source.kind != "last" and plane % _PIXELS == 0 else 1
    frame = Frame("interleave", func, layouts)
    lines = [
        "#define MODE 0",
        f"#define X_POINTER {frame.pointer(func.params[0])}",
        gemm.prelude(),
        f"typedef {type_of(result.element)} T;",
        f"typedef {_BITS[element_width(result.element)]} Bits;",
        f"constexpr int C = {channels}, PLANE = {plane}, PIXELS = {per_thread};",
        f"constexpr int X_C = {strides[0]}, X_PIXEL = {strides[1]};",
        (_HERE / "interleave.cu").read_text(encoding="utf-8"),
    ]
    threads = simple(shape[0]) * (plane // per_thread)
    blocks = (threads + (_THREADS - 1)) // _THREADS
    return frame.finish("\n".join(lines), [blocks], _THREADS, 0, [threads])
