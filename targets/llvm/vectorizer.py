"""Loops that LLVM 22 vectorizes into wrong code, found before it sees them.

With AVX-512, of

    y[i, j] = select(j - i <= p[0], x[i % 13 * 16 + j % 16], 0)

the loop vectorizer makes masked loads of x that run on past `j % 16 == 15` instead of starting
over. It takes a load under a condition whose index wraps at a power of two. Without its
if-conversion, such loops are left as they are; other loops with conditions are too, so the option
is for modules that need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import IRModule, ir, tirx
from tvm.ir.expr import TensorLoad

_OPTION = "-enable-if-conversion=false"


def careful_target(mod: IRModule, target: tvm.target.Target) -> tvm.target.Target:
    """The target, with the option where a function of the module needs it."""
    if not any(isinstance(f, tirx.PrimFunc) and _is_at_risk(f) for f in mod.functions.values()):
        return target
    fields = {name: target.attrs[name] for name in ("mcpu", "mtriple", "num-cores")}
    return tvm.target.Target({"kind": "llvm", **fields, "cl-opt": [_OPTION]})


def _is_at_risk(func: tirx.PrimFunc) -> bool:
    selects: list[Any] = []
    calls: list[Any] = []
    tvm_ffi.structural_walk(func.body, (tirx.Select, selects.append))
    tvm_ffi.structural_walk(func.body, (ir.Call, calls.append))
    branches = [branch for node in selects for branch in (node.true_value, node.false_value)]
    branches += [branch for call in calls for branch in _branches(call)]
    loads: list[TensorLoad] = []
    for branch in branches:
        tvm_ffi.structural_walk(branch, (TensorLoad, loads.append))
    return any(_wraps(index) for load in loads for index in load.indices)


def _branches(call: ir.Call) -> Sequence[Any]:
    """What is computed under a condition."""
    is_choice = str(getattr(call.op, "name", "")) == "prim.if_then_else"
    return list(call.args[1:]) if is_choice else ()


def _wraps(index: Any) -> bool:
    """Whether a remainder by a power of two is a part of an index."""
    found: list[Any] = []
    for kind in (tirx.FloorMod, tirx.Mod):
        tvm_ffi.structural_walk(index, (kind, found.append))
    sizes = [int(node.b) for node in found if isinstance(node.b, tirx.IntImm)]
    return any(size > 1 and size & (size - 1) == 0 for size in sizes)
