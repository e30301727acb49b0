"""Fold inference-time batch normalization into the convolution before it.

Before:                                      After:
    lv = R.nn.conv2d(x, w)                       lv = R.nn.conv2d(x, w * s)
    lv1 = R.add(lv, bias)                        lv1 = R.add(lv, (bias - mean) * s + beta)
    lv2 = R.nn.batch_norm(lv1, gamma, beta, mean, var)
    lv3 = lv2[0]
where s = gamma / sqrt(var + eps), per output channel.

Fires when: 1. the weight, the bias (if any) and all four statistics are constants;
            2. the normalized axis is the channel axis 1 and the kernel layout is O-first;
            3. nothing but the batch norm reads the convolution (else its result would change).
Leaves alone: batch norm after anything else, which `decompose-composites` writes out.
Changes results by: rounding only; weights are scaled in float64 and rounded once.
Must run before: decompose-composites, which would leave a multiply and an add per element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst
from tvm.relax.dpl import DFPattern, is_const, is_op, is_tuple_get_item, rewrite_call, wildcard

from relaxc.passes.analysis.uses import use_counts
from relaxc.passes.base import Pass

_CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Scale convolution weights so that the batch norm after them disappears."""

    name: ClassVar[str] = "fold-batch-norm"

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite every function of the module."""
        out = mod.clone()
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                for conv in _CONVOLUTIONS:
                    for with_bias in (True, False):
                        func = _fold(func, conv, with_bias)
                out[gvar] = func
        return out


def _fold(func: relax.Function, conv: str, with_bias: bool) -> relax.Function:
    data, weight, bias = wildcard(), is_const(), is_const()
    convolved = is_op(conv)(data, weight)
    biased = is_op("relax.add")(convolved, bias) if with_bias else convolved
    statistics = [is_const() for _ in range(4)]
    normalized = is_op("relax.nn.batch_norm")(biased, *statistics)
    pattern = is_tuple_get_item(normalized, 0)
    counts = use_counts(func)
    # A rewritten convolution keeps its name, by which users know it.
    names = {b.value: str(b.var.name) for block in func.body.blocks for b in block.bindings}
    kept: dict[relax.Expr, str] = {}

    def rewrite(expr: relax.Expr, match: dict[DFPattern, relax.Expr]) -> relax.Expr:
        call, norm = match[convolved], match[normalized]
        intermediate = [match[convolved], match[biased]]
        if any(counts.get(e, 1) > 1 for e in intermediate):  # 3.
            return expr
        if int(norm.attrs.axis) != 1 or not str(call.attrs.kernel_layout).startswith("O"):  # 2.
            return expr
        w = _array(match[weight])
        offset = _array(match[bias]) if with_bias else np.zeros(1)
        if offset.size not in (1, w.shape[0]):
            return expr
        gamma, beta, mean, variance = (_array(match[s]) for s in statistics)
        scale = gamma / np.sqrt(variance + float(norm.attrs.epsilon))
        spatial = w.ndim - 2
        new_w = w * scale.reshape(-1, *[1] * (w.ndim - 1))
        new_bias = (offset.reshape(-1) - mean) * scale + beta
        dtype = match[weight].ty.dtype.dtype
        new_weight = _const(new_w, dtype)
        if call in names:
            kept[new_weight] = names[call]
        folded = relax.Call(call.op, [call.args[0], new_weight], call.attrs)
        return relax.op.add(folded, _const(new_bias.reshape(1, -1, *[1] * spatial), dtype))

    result = rewrite_call(pattern, rewrite, func)
    return _Renaming(kept).visit_expr(result) if kept else result


@relax.expr_functor.mutator
class _Renaming(relax.PyExprMutator):
    """Names bindings after the weight that they read."""

    def __init__(self, names: dict[relax.Expr, str]) -> None:
        super().__init__()
        self._names = names
        self._wanted = ""

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        args = list(getattr(binding.value, "args", ()))
        self._wanted = self._names.get(args[1], "") if len(args) > 1 else ""
        super().visit_var_binding_(binding)
        self._wanted = ""

    def visit_dataflow_var_def_(self, var: relax.Var) -> relax.Var:
        return self._renamed(var, relax.DataflowVar)

    def visit_var_def_(self, var: relax.Var) -> relax.Var:
        return self._renamed(var, relax.Var)

    def _renamed(self, var: relax.Var, kind: type[relax.Var]) -> relax.Var:
        if not self._wanted or str(var.name) == self._wanted:
            return var
        fresh = kind(self._wanted, var.ty)
        self.set_var_remap(var, fresh)
        return fresh


def _array(const: GenericConst) -> np.ndarray:
    return np.asarray(const.value.numpy(), np.float64)


def _const(array: np.ndarray, dtype: str) -> relax.Expr:
    return relax.const(array.astype(dtype), dtype)
