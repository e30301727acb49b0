"""Stores around the caches, and when to use them.

A store to memory reads the line before it writes it, and displaces others from the caches. What is
larger than they are cannot stay there in any case: stores around them move a third less. x86 only.
"""

from __future__ import annotations

from collections.abc import Iterable

from tvm import tirx
from tvm.tirx import BufferLoad

from relaxc.targets.llvm.kernels.builder import LINE, Buffer, Expr, Index, KernelBuilder, index
from relaxc.targets.llvm.kernels.domain import as_int

# Bytes of a result above which the last-level cache does not keep it.
_LARGE = 32 << 20
_TYPES = {"float32": "float", "uint8": "i8", "uint16": "i16", "uint32": "i32", "uint64": "i64"}
_STREAM = """
define i32 @relaxc_stream_{dtype}(ptr %to, {value} %value) {{
  store {value} %value, ptr %to, align {line}, !nontemporal !{{i32 1}}
  ret i32 0
}}
"""
_FENCE = """
declare void @llvm.x86.sse.sfence()
define i32 @relaxc_fence() {
  call void @llvm.x86.sse.sfence()
  ret i32 0
}
"""


def pays(b: KernelBuilder, count: Index, size: int, starts: Iterable[Index | None]) -> bool:
    """Whether to stream a result: it is large, its vectors are lines, and its rows begin at lines.

    Args:
        b: the kernel; without vectors as wide as a line, it never does.
        count: elements in all.
        size: bytes of an element.
        starts: elements from the beginning to wherever a row may begin, and from row to row; None
            is unknown.
    """
    total = as_int(count)
    if 4 * b.lanes != LINE or total is None or total * size < _LARGE:
        return False
    known = [None if start is None else as_int(start) for start in starts]
    return all(start is not None and start * size % LINE == 0 for start in known)


def stream(b: KernelBuilder, buffer: Buffer, at: Index, value: Expr, lanes: int) -> None:
    """Store a line's worth of elements at a line of its own; `fence` before the task ends."""
    line = f"<{lanes} x {_TYPES[buffer.dtype]}>"
    b.define(_STREAM.format(dtype=buffer.dtype, value=line, line=LINE))
    address = tirx.call_intrin("handle", "tirx.address_of", BufferLoad(buffer.data, [index(at)]))
    name = f"relaxc_stream_{buffer.dtype}"
    b.emit(tirx.Evaluate(tirx.call_extern("int32", name, address, value)))


def fence(b: KernelBuilder) -> None:
    """Make what this thread has streamed visible to others, before what it stores later."""
    b.define(_FENCE)
    b.emit(tirx.Evaluate(tirx.call_extern("int32", "relaxc_fence")))
