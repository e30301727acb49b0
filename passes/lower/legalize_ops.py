"""Write operators that have no kernel as loop nests, and reshapes as views.

Before:                                   After:
    lv = R.expand_dims(x, axis=[1])           lv = R.reshape(x, (n, 1, c))
    lv1 = R.nn.softmax(lv)                    lv1 = R.call_tir(softmax, (lv,), ...)

A reshape in row-major order moves nothing: it stays an operator, which the virtual machine runs as
a view, instead of a loop nest that copies. What is empty is made anew.

Must run after: lower-groups. Must run before: fuse-ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, ir, relax, tirx, topi

from relaxc.passes.base import Pass
from relaxc.passes.lower.extremum_ops import EXTREMUM_RULES
from relaxc.passes.lower.quantize_ops import dequantize, quantize

_VIEWS = ("relax.expand_dims", "relax.flatten", "relax.squeeze")


@dataclass(frozen=True)
class LegalizeOps(Pass):
    """Replace operators by calls to PrimFuncs."""

    name: ClassVar[str] = "legalize-ops"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Legalize every function."""
        rules = {"relax.reshape": _keep, "relax.quantize": quantize, **EXTREMUM_RULES}
        rules["relax.dequantize"] = dequantize
        rules |= {"relax.mean": _mean, "relax.strided_slice": _strided_slice}
        rules |= dict.fromkeys(_VIEWS, _as_reshape)
        return relax.transform.LegalizeOps(rules)(mod)


def _keep(_bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return call


def _as_reshape(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    if not isinstance(call.ty.shape, relax.ShapeExpr):
        return call
    if any(isinstance(d, tirx.IntImm) and int(d) == 0 for d in call.ty.shape.values):
        # A reshape would read 0 as "the dimension that was there".
        return bb.call_te(topi.full, list(call.ty.shape.values), str(call.ty.dtype.dtype), 0)
    return relax.op.reshape(call.args[0], call.ty.shape)


def _strided_slice(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """TVM computes the extents anew, in a form that may not be provably the call's."""
    made = ir.Op.get("relax.strided_slice").get_attr("FLegalize")(bb, call)
    if not isinstance(made, relax.Call) or not made.ty_args or not _has_shape(call):
        return made
    return relax.Call(made.op, made.args, made.attrs, [call.ty], made.span)


def _has_shape(call: relax.Call) -> bool:
    return isinstance(call.ty, relax.TensorType) and isinstance(call.ty.shape, relax.ShapeExpr)


def _mean(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    shape, listed = call.args[0].ty.shape, call.attrs.axis
    if isinstance(shape, relax.ShapeExpr) and isinstance(call.ty.shape, relax.ShapeExpr):
        axes = range(len(shape.values)) if listed is None else [int(a) for a in listed]
        sizes = [shape.values[a] for a in axes]
        if any(isinstance(n, tirx.IntImm) and int(n) == 0 for n in sizes):
            # TVM divides by the size while it builds the loops; of nothing, the mean is 0 / 0.
            dtype = str(call.ty.dtype.dtype)
            value = tirx.const(float("nan"), dtype)
            return bb.call_te(topi.full, list(call.ty.shape.values), dtype, value)
    return ir.Op.get("relax.mean").get_attr("FLegalize")(bb, call)
