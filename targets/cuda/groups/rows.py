"""Normalizations over the last dimension, with an elementwise epilogue."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from pathlib import Path

from tvm import relax

from relaxc.layout import PLAIN, ROWS_E4M3, Demand, Layout
from relaxc.targets.cuda.groups.base import (
    NORMS,
    Context,
    Group,
    GroupKernel,
    is_float,
    is_row_epilogue,
)
from relaxc.targets.cuda.kernels import expressions, gemm
from relaxc.targets.cuda.kernels.epilogue import epilogue_text, vector_width
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.constants import is_constant
from relaxc.targets.llvm.kernels.domain import RowDomain, as_int, simple

_HERE = Path(gemm.__file__).parent
_THREADS = 128
# A thread holds 64 numbers at most; rows of up to 1024 are a warp's, others a block's.
_MAX_WARP, _MAX_BLOCK = 1024, 8192


class Rows(GroupKernel):
    """Layer norm, RMS norm and softmax of rows that fit into a block's registers."""

    name = "norm"

    def anchors(self, call: relax.Call, context: Context) -> bool:
        """Whether the last dimension alone is normalized, and its size known."""
        op, data = str(call.op.name), call.args[0] if call.args else None
        if op not in (*NORMS, "relax.nn.softmax") or not isinstance(data, relax.Var):
            return False
        if not all(map(is_float, call.args)) or data.ty.ndim < 1:
            return False
        size, rank = as_int(data.ty.shape.values[-1]), int(data.ty.ndim)
        if size is None or not 1 < size <= _MAX_BLOCK:
            return False
        axes = [call.attrs.axis] if op == "relax.nn.softmax" else list(call.attrs.axes)
        return [int(axis) % rank for axis in axes] == [rank - 1]

    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Elementwise operators on rows."""
        return is_row_epilogue(call, RowDomain(tuple(anchor.ty.shape.values)))

    def demands(self, group: Group, data: Layout, context: Context) -> list[Demand]:
        """Row-major tensors."""
        return [Demand(("plain",)) for _ in group.func.params]

    def result_layout(self, group: Group, params: Sequence[Layout]) -> Layout:
        """Row-major."""
        return PLAIN

    def lower(self, group: Group, layouts: Sequence[Layout], context: Context) -> Kernel:
        """Write the kernel."""
        *leading, last = group.anchor.args[0].ty.shape.values
        size = int(last)
        rows = functools.reduce(operator.mul, map(simple, leading), 1)
        team = 32 if size <= _MAX_WARP else _THREADS
        frame = Frame("norm", group.func, layouts)
        data = frame.pointer(group.anchor.args[0])
        is_softmax = str(group.anchor.op.name) == "relax.nn.softmax"
        centered = str(group.anchor.op.name) == "relax.nn.layer_norm"
        epsilon = 0.0 if is_softmax else float(group.anchor.attrs.epsilon)
        affine: list[str] = []
        loads: list[str] = []
        late: list[str] = []
        for op, weight in zip("*+", group.anchor.args[1:]):
            name, pointer = "scale" if op == "*" else "offset", frame.pointer(weight)
            place, prefix = "(i * TEAM + lane) * V", f"float {name}[COUNT][V];"
            # What is constant is read before other kernels have ended.
            reads = [f"if ({place} < D) read<V>({name}[i], {pointer} + {place});"]
            found = loads if is_constant(weight) else late
            found += [prefix, "#pragma unroll", "for (int i = 0; i < COUNT; ++i)", *reads]
            affine += ["#pragma unroll", f"for (int e = 0; e < V; ++e) v[e] {op}= {name}[i][e];"]
        epilogue = epilogue_text(group.epilogue, RowDomain(tuple(group.result_shape)), frame)
        lines = [
            "#define MODE 0",
            *(["#define IS_ROUNDED"] if layouts[-1].element == ROWS_E4M3 else []),
            "#define INFINITY_ __int_as_float(0x7f800000)",
            f"#define X_POINTER {data}",
            gemm.prelude(),
            f"constexpr int D = {size}, TEAM = {team}, V = {vector_width(size, layouts[-1])};",
            f"constexpr bool IS_SOFTMAX = {int(is_softmax)}, IS_CENTERED = {int(centered)};",
            f"constexpr float EPSILON = {expressions.number(epsilon)};",
            (_HERE / "rows.cu").read_text(encoding="utf-8"),
        ]
        text = "\n".join(lines)
        for word, read in (("CONSTANTS", loads), ("OTHERS", late)):
            text = text.replace(f"{word}\n", "\n  ".join(read) + "\n")
        text = text.replace("AFFINE\n", "\n    ".join(affine) + "\n")
        text = epilogue.alone(text)
        blocks = (rows + (_THREADS // team - 1)) // (_THREADS // team)
        return frame.finish(text, [blocks], _THREADS, _THREADS // 32 * 4, [rows])
