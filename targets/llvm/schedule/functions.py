"""Transcendental functions in loop nests as polynomials, which vectorize."""

from __future__ import annotations

from collections.abc import Callable

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Call

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Expr
from relaxc.targets.llvm.schedule.nest import loads_of

_FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "tirx.erf": vm.erf,
    "tirx.exp": vm.exp,
    "tirx.log": vm.log,
    "tirx.rsqrt": lambda x: vm.const(1.0, x) / tirx.sqrt(x),
    "tirx.sigmoid": vm.sigmoid,
    "tirx.tanh": vm.tanh,
}


def expand_functions(value: Expr) -> Expr:
    """Replace calls on float32 scalars; the argument is computed once."""

    def change(call: Call) -> Expr:
        name = str(call.op.name) if isinstance(call.op, ir.Op) else ""
        if name not in _FUNCTIONS or str(call.ty.dtype) != "float32":
            return call
        # BF16ComputeLegalize (TVM 0.27) forgets values of Let: what reads bfloat16 stays.
        if _reads_bfloat16(call.args[0]):
            return call
        var = tirx.Var("x", "float32")
        return tirx.Let(var, call.args[0], _FUNCTIONS[name](var))

    return tvm_ffi.structural_map(value, (Call, change))


def _reads_bfloat16(value: Expr) -> bool:
    return any("bfloat16" in str(load.ty.dtype) for load in loads_of(value))
