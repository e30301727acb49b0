"""Write inference-time batch normalization as one multiply and one add per element.

Before:                                             After:
    lv = R.nn.batch_norm(x, gamma, beta, mean, var)     lv = R.multiply(x, s)
    lv1 = lv[0]                                         lv1 = R.add(lv, beta - mean * s)
where s = gamma / sqrt(var + eps), per channel.

Fires when: all four statistics are constants. Others are left to decompose-composites.
Changes results by: rounding only; s and the offset are computed in float64 and rounded once.
Must run after: fold-batch-norm, which makes most of them disappear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax
from tvm.relax.dpl import DFPattern, is_const, is_op, is_tuple_get_item, rewrite_call, wildcard

from relaxc.passes.base import Pass


@dataclass(frozen=True)
class DecomposeBatchNorm(Pass):
    """Replace batch norm by a multiply and an add with constants."""

    name: ClassVar[str] = "decompose-batch-norm"

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite every function of the module."""
        out = mod.clone()
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                out[gvar] = _decompose(func)
        return out


def _decompose(func: relax.Function) -> relax.Function:
    data = wildcard()
    statistics = [is_const() for _ in range(4)]
    normalized = is_op("relax.nn.batch_norm")(data, *statistics)
    pattern = is_tuple_get_item(normalized, 0)

    def rewrite(expr: relax.Expr, match: dict[DFPattern, relax.Expr]) -> relax.Expr:
        norm, x = match[normalized], match[data]
        arrays = [np.asarray(match[s].value.numpy(), np.float64) for s in statistics]
        gamma, beta, mean, variance = arrays
        scale = gamma / np.sqrt(variance + float(norm.attrs.epsilon))
        axis = int(norm.attrs.axis) % x.ty.ndim
        shape = [-1 if i == axis else 1 for i in range(x.ty.ndim)]
        dtype = str(x.ty.dtype.dtype)

        def constant(values: np.ndarray) -> relax.Expr:
            return relax.const(values.reshape(shape).astype(dtype), dtype)

        return relax.op.add(relax.op.multiply(x, constant(scale)), constant(beta - mean * scale))

    return rewrite_call(pattern, rewrite, func)
