"""Transcendental functions in loop nests as polynomials, which vectorize."""

from __future__ import annotations

import math
from collections.abc import Callable

import tvm_ffi
from tvm import ir, tirx
from tvm.ir import Call

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Expr
from relaxc.targets.llvm.schedule.nest import loads_of


def _cosh(x: Expr) -> Expr:
    grown, shrunk = _halves(x)
    return grown + shrunk


def _sinh(x: Expr) -> Expr:
    """Of small numbers by its series: what exponentials differ in would be lost."""
    kind, square = str(x.ty.dtype), x * x
    series = tirx.const(0.0, kind)
    for k in range(9 if kind == "float64" else 5, -1, -1):
        series = series * square + tirx.const(1 / math.factorial(2 * k + 1), kind)
    grown, shrunk = _halves(x)
    is_small = tirx.abs(x) < tirx.const(1.0, kind)
    return tirx.Select(is_small, x * series, grown - shrunk)


def _halves(x: Expr) -> tuple[Expr, Expr]:
    """Half of the exponentials of x and -x, where they are finite as well."""
    half = tirx.const(0.5, str(x.ty.dtype))
    root = tirx.exp(x * half) if str(x.ty.dtype) == "float64" else vm.exp(x * half)
    return root * half * root, half / root / root


_FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "tirx.cosh": _cosh,
    "tirx.erf": vm.erf,
    "tirx.exp": vm.exp,
    "tirx.log": vm.log,
    "tirx.rsqrt": lambda x: vm.const(1.0, x) / tirx.sqrt(x),
    "tirx.sigmoid": vm.sigmoid,
    "tirx.sinh": _sinh,
    "tirx.tanh": vm.tanh,
}
# LLVM has no instruction for these: TVM's code generator knows them for scalars only.
_SCALAR = frozenset({"tirx.cosh", "tirx.sinh"})


def expand_functions(value: Expr) -> Expr:
    """Replace calls on scalars of float32, and some of float64; the argument is computed once."""

    def change(call: Call) -> Expr:
        name, kind = str(call.op.name) if isinstance(call.op, ir.Op) else "", str(call.ty.dtype)
        if name not in _FUNCTIONS or not (
            kind == "float32" or (kind == "float64" and name in _SCALAR)
        ):
            return call
        # BF16ComputeLegalize (TVM 0.27) forgets values of Let: what reads bfloat16 stays.
        if _reads_bfloat16(call.args[0]):
            return call
        var = tirx.Var("x", kind)
        return tirx.Let(var, call.args[0], _FUNCTIONS[name](var))

    return tvm_ffi.structural_map(value, (Call, change))


def _reads_bfloat16(value: Expr) -> bool:
    return any("bfloat16" in str(load.ty.dtype) for load in loads_of(value))
