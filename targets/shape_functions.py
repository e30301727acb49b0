"""Put the statements of shape functions into a fixed order.

TVM's VMShapeLower (0.27) walks a hash map of pointers when it writes the functions that compute
symbolic dimensions, so that their order depends on where objects lie in memory, and equal models
give unequal code. Each statement fills one slot of the heap `H` and reads only slots that were
filled before the call, so that any order is right; ours is that of the slots.
"""

from __future__ import annotations

import tvm
from tvm import IRModule, tirx


@tvm.transform.module_pass(opt_level=0, name="sort-shape-functions")
def sort_shape_functions(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
    """Sort the statements of every shape function."""
    out = mod.clone()
    for gvar, func in mod.functions_items():
        is_shape_function = gvar.name_hint.startswith("shape_func")
        if is_shape_function and isinstance(func, tirx.PrimFunc):
            out[gvar] = _sorted(func)
    return out


def _sorted(func: tirx.PrimFunc) -> tirx.PrimFunc:
    body = func.body
    if not isinstance(body, tirx.SeqStmt):
        return func
    statements = list(body.seq)
    if not all(isinstance(s, tirx.BufferStore) for s in statements):
        return func
    slots = {int(s.indices[0]): s for s in statements}
    return func.with_body(tirx.SeqStmt([slots[slot] for slot in sorted(slots)]))
