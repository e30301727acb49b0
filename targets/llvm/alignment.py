"""Which inputs compiled code reads wherever they lie, so that callers need not copy them.

Kernels load vectors from whole lines; NumPy aligns arrays to 16 bytes. A kernel that reads a
parameter element by element, or by vectors that may straddle lines, says so by `ANY_ALIGNMENT`.
Inputs that such kernels alone read are listed in an attribute of `main`.

Must run before: call-tir-rewrite.
"""

from __future__ import annotations

import tvm
from tvm import IRModule, relax, tirx

# Attribute of a finished kernel: positions of parameters that may lie anywhere.
ANY_ALIGNMENT = "relaxc.any_alignment"


@tvm.transform.module_pass(opt_level=0, name="mark-inputs")
def mark_inputs(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
    """Note on `main` which of its parameters may lie anywhere."""
    main = mod["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    aligned = set(relax.analysis.free_vars(main.body.body))
    for binding in bindings:
        aligned |= _needing_alignment(mod, binding)
    free = [i for i, param in enumerate(main.params) if param not in aligned]
    out = mod.clone()
    out["main"] = main.with_attr(ANY_ALIGNMENT, free)
    return out


def unaligned_inputs(mod: IRModule) -> tuple[int, ...]:
    """The positions that `mark_inputs` found."""
    return tuple(int(i) for i in mod["main"].attrs.get(ANY_ALIGNMENT, ()))


def _needing_alignment(mod: IRModule, binding: relax.Binding) -> set[relax.Var]:
    """Variables that a binding reads as if they lay at the beginning of a line."""
    value = getattr(binding, "value", None)
    if value is None:
        return set()
    found = set(relax.analysis.free_vars(value))
    is_call = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)
    if not is_call or str(value.op.name) != "relax.call_tir":
        return found
    kernel = mod[value.args[0]]
    if not isinstance(kernel, tirx.PrimFunc) or not kernel.attrs:
        return found
    anywhere = {int(i) for i in kernel.attrs.get(ANY_ALIGNMENT, ())}
    arguments = list(value.args[1].fields)
    strict = {arg for i, arg in enumerate(arguments) if i not in anywhere}
    return found - {arg for i, arg in enumerate(arguments) if i in anywhere and arg not in strict}
