"""Replace what has no elements, or is computed of none, by what it must be.

Before:                                       After:
    lv: R.Tensor((n, 0)) = R.exp(x)               lv = R.broadcast_to(R.const(0.0), (n, 0))
    lv1: R.Tensor((n, 1)) = R.mean(x, 1, True)    lv1 = R.broadcast_to(R.const(nan), (n, 1))
    lv2: R.Tensor((n, 4)) = R.matmul(x, w)        lv2 = R.broadcast_to(R.const(0.0), (n, 4))
where x has the shape (n, 0).

Fires when: 1. an operator or a loop nest returns tensors of which each has a dimension that is the
number 0; 2. a reduction or a product reads such a tensor.
Leaves alone: dimensions that only the run knows to be 0; calls of functions, which may check.
Exact.
Must run before: everything else, because kernels and TVM divide by extents and stride by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, ir, relax, tirx

from relaxc.passes.base import Pass

# What remains of a reduction over nothing.
_OF_NOTHING = {
    "relax.sum": 0.0,
    "relax.prod": 1.0,
    "relax.mean": math.nan,
    "relax.variance": math.nan,
    "relax.std": math.nan,
    "relax.matmul": 0.0,
}
_CALLS = ("relax.call_pure_packed", "relax.call_packed", "relax.call_dps_packed")


@dataclass(frozen=True)
class FoldEmpty(Pass):
    """Replace operators on tensors without elements by constants."""

    name: ClassVar[str] = "fold-empty"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite every function of the module."""
        if not any(_mentions_nothing(f) for _, f in mod.functions_items()):
            return mod
        out = mod.clone()
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                out[gvar] = _Folder().visit_expr(func)
        return out


def _mentions_nothing(func: ir.BaseFunc) -> bool:
    found = False

    def look(expr: relax.Expr) -> None:
        nonlocal found
        if not found and isinstance(expr, relax.Call | relax.Var | ir.GenericConst):
            found = any(map(is_empty, _tensors(expr.ty)))

    if isinstance(func, relax.Function):
        relax.analysis.post_order_visit(func, look)
    return found


def _tensors(kind: ir.Type) -> list[ir.Type]:
    if isinstance(kind, relax.TupleType):
        return [part for each in kind.fields for part in _tensors(each)]
    return [kind]


def is_empty(kind: ir.Type) -> bool:
    """Whether a type is that of a tensor with a dimension that is the number 0."""
    shape = getattr(kind, "shape", None)
    return isinstance(shape, relax.ShapeExpr) and any(
        isinstance(d, tirx.IntImm) and int(d) == 0 for d in shape.values
    )


@relax.expr_functor.mutator
class _Folder(relax.PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        folded = _folded(call)
        return self.visit_expr_post_order(call) if folded is None else folded


def _folded(call: relax.Call) -> relax.Expr | None:
    if not isinstance(call.op, ir.Op) or call.op.name in _CALLS:
        return None
    name = call.op.name
    if name == "relax.broadcast_to" and isinstance(call.args[0], ir.GenericConst):
        return None
    parts = _tensors(call.ty)
    # 1.
    if all(map(is_empty, parts)):
        values = [_filled(part, 0.0) for part in parts]
        return values[0] if not isinstance(call.ty, relax.TupleType) else relax.Tuple(values)
    # 2.
    if name not in _OF_NOTHING or not isinstance(call.ty.shape, relax.ShapeExpr):
        return None
    if not any(is_empty(arg.ty) for arg in call.args):
        return None
    value = _OF_NOTHING[name]
    if math.isnan(value) and "float" not in str(call.ty.dtype.dtype):
        value = 0.0
    return _filled(call.ty, value)


def _filled(kind: relax.TensorType, value: float) -> relax.Expr:
    return relax.op.broadcast_to(relax.const(value, str(kind.dtype.dtype)), kind.shape)
