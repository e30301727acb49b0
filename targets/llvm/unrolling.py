"""Loops so long that TVM would write them out step by step.

TVM unrolls a loop by itself if its steps, times the statements in it, are at most a limit, zero by
default. It multiplies in 32 bits: of 2**30 steps the product can be negative, and compiling takes
all memory. Modules with such loops are compiled without; what a schedule has asked to unroll by a
limit of its own (as MetaSchedule's do) stays a loop there.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import IRModule, tirx

# Far above what anyone unrolls, and below where a product with a body's statements overflows.
_LONG = 1 << 24
_NONE = {"tirx.UnrollLoop": {"auto_max_depth": -1}}


def unroll_config(mod: IRModule) -> dict[str, Any]:
    """The configuration of TVM's passes that a module needs."""
    funcs = [func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc)]
    return _NONE if any(_has_long_loop(func) for func in funcs) else {}


def _has_long_loop(func: tirx.PrimFunc) -> bool:
    loops: list[Any] = []
    tvm_ffi.structural_walk(func.body, (tirx.For, loops.append))
    return any(isinstance(loop.extent, tirx.IntImm) and int(loop.extent) >= _LONG for loop in loops)
