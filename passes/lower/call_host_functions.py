"""Leave operators to the host whose results have sizes that only their values tell.

Before:                       After:
    lv = R.nonzero(x)             lv = R.call_pure_packed("relaxc.nonzero", x)

TVM's own functions for them are a part of its Python package, which machines that run artifacts
lack; relaxc's runtime has these (src/relaxc/runtime/host_functions.py).

Fires when: the operator is `nonzero` or `unique`.
Leaves alone: everything else.
Exact. Must run before: legalize-ops, which would call TVM's functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax

from relaxc.passes.base import Pass

_FUNCTIONS = {"relax.nonzero": "relaxc.nonzero", "relax.unique": "relaxc.unique"}


@dataclass(frozen=True)
class CallHostFunctions(Pass):
    """Call functions of relaxc's runtime."""

    name: ClassVar[str] = "call-host-functions"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite every function."""
        out = mod.clone()
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                out[gvar] = _Rewriter().visit_expr(func)
        return out


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if isinstance(call.op, tvm.ir.Op) and call.op.name in _FUNCTIONS:
            name = _FUNCTIONS[call.op.name]
            return relax.op.call_pure_packed(name, *call.args, ty_args=[call.ty])
        return call
