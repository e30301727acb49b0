"""Partial sums of several GPUs added up, with an elementwise epilogue: bias and residual."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tvm import relax

from relaxc import communicator
from relaxc.layout import PLAIN, Demand, Layout
from relaxc.targets.cuda.groups.base import Context, Group, GroupKernel, is_float, is_row_epilogue
from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.elements import element_width, type_of
from relaxc.targets.cuda.kernels.epilogue import epilogue_text, vector_width
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.domain import RowDomain, as_int

_HERE = Path(gemm.__file__).parent
# Up to so many bytes, data and the word that says that they are there travel together: twice as
# many bytes, but nobody waits for a flag behind them.
_MOST_SMALL = 1 << 18
_SMALL_THREADS, _LARGE_THREADS, _MOST_STEPS = 128, 256, 4


class AllReduce(GroupKernel):
    """The sum of what all GPUs that compute the model have."""

    name = "allreduce"

    def anchors(self, call: relax.Call, context: Context) -> bool:
        """Whether it adds up tensors of known shape."""
        if str(call.op.name) != "relax.ccl.allreduce" or not is_float(call):
            return False
        known = all(as_int(d) is not None for d in call.ty.shape.values)
        return known and call.ty.ndim > 0 and isinstance(call.args[0], relax.Var)

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
        shape = [int(d) for d in group.result_shape]
        frame = Frame("allreduce", group.func, layouts)
        data = group.anchor.args[0]
        pointer, element = frame.pointer(data), frame.elements[data]
        width = vector_width(shape[-1], layouts[-1])
        text = np.frombuffer(communicator.PLACEHOLDER, np.float32)
        places = _places(math.prod(shape) // width, width * element_width(element))
        epilogue = epilogue_text(group.epilogue, RowDomain(tuple(group.result_shape)), frame)
        lines = [
            "#define MODE 0",
            f"#define IS_SMALL {places.pop('IS_SMALL')}",
            f"#define X_POINTER {pointer}",
            f"#define COMMUNICATOR {frame.constant(text)}",
            gemm.prelude(),
            (_HERE / "peers.cuh").read_text(encoding="utf-8"),
            f"typedef {type_of(element)} X;",
            f"constexpr int N = {shape[-1]}, V = {width};",
            *(f"constexpr int {name} = {value};" for name, value in places.items()),
            (_HERE / "all_reduce.cu").read_text(encoding="utf-8"),
        ]
        source = epilogue.into("\n".join(lines))
        return frame.finish(source, [places["BLOCKS"]], places["THREADS"], 0)


def _places(items: int, item_bytes: int) -> dict[str, int]:
    """How blocks divide the work, and where data are sent to."""
    shared = communicator
    found = {"ITEMS": items, "MOST_RANKS": shared.MOST_RANKS, "DATA": shared.SMALL}
    found |= {name: getattr(shared, name) for name in ("RANK", "RANKS", "IS_JOINED", "AREAS")}
    is_small = items * item_bytes <= _MOST_SMALL
    if is_small:
        threads, steps, most = _SMALL_THREADS, 1, shared.SMALL_BLOCKS
        found |= {"COUNTERS": shared.COUNTERS, "DATA_PER_RANK": 0}
        found |= {"BLOCK_BYTES": shared.SMALL_BYTES, "LINES": -(-item_bytes // 8)}
        found["LINE_HAS_TWO"] = int(item_bytes > 4)
    else:
        threads, most = _LARGE_THREADS, shared.LARGE_BLOCKS
        steps = min(_MOST_STEPS, shared.LARGE_BYTES // (threads * item_bytes))
        found |= {"COUNTERS": shared.COUNTERS + 4 * shared.SMALL_BLOCKS, "FLAGS": shared.FLAGS}
        per_rank = shared.large(1) - shared.large(0)
        found |= {"DATA_PER_RANK": per_rank, "BLOCK_BYTES": shared.LARGE_BYTES}
    blocks = min(most, -(-items // (threads * steps)))
    return found | {"THREADS": threads, "STEPS": steps, "BLOCKS": blocks, "IS_SMALL": int(is_small)}
