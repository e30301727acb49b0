"""Raise GELU and SiLU, which exporters write out, back to one operator each.

Before:                                  After:
    lv = R.divide(x, 1.4142135)              gv = R.nn.gelu(x)
    lv1 = R.erf(lv)
    lv2 = R.add(lv1, 1)
    lv3 = R.multiply(0.5, lv2)
    gv = R.multiply(x, lv3)

    lv = R.sigmoid(x)                        gv = R.nn.silu(x)
    gv = R.multiply(x, lv)

Fires when: 1. factors of a product of float32, in any order and nesting, are 0.5, x and
               1 + erf(x / sqrt(2)), or x and sigmoid(x);
            2. nothing else reads what lies between (else it would be computed twice).
Changes results by: rounding only; the square root is that of the reals.
Must run after: fold-constant. Must run before: sink-permute and group-ops.
Gains: kernels divide once instead of two times, and multiply a third less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions
from relaxc.passes.fuse.outline import BindingGraph, operator_call

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class RaiseActivations(Pass):
    """Recognize activations by their formulas."""

    name: ClassVar[str] = "raise-activations"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of every function."""
        return relax.transform.DeadCodeElimination()(rewrite_functions(mod, _rewrite))


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> list[relax.Binding]:
    bindings = list(block.bindings)
    if not isinstance(block, relax.DataflowBlock):
        return bindings
    calls = [operator_call(binding) for binding in bindings]
    if not any(call is not None and call.op.name in _CORES for call in calls):
        return bindings
    matcher = _Matcher(BindingGraph(bindings))
    result: list[relax.Binding] = []
    for binding, call in zip(bindings, calls):
        raised = None if call is None else matcher.activation(call)
        if raised is not None:
            binding = relax.VarBinding(binding.var, builder.normalize(raised))
        result.append(binding)
    return result


_CORES = ("relax.erf", "relax.sigmoid")


class _Matcher:
    """Looks at products from their last factor back."""

    def __init__(self, graph: BindingGraph) -> None:
        self.graph = graph

    def activation(self, call: relax.Call) -> relax.Call | None:
        """The activation that a product computes, if it is one."""
        if call.op.name != "relax.multiply" or str(call.ty.dtype.dtype) != "float32":
            return None
        factors = self._factors(call)
        numbers = [n for f in factors if (n := _number(f)) is not None]
        tensors = [f for f in factors if _number(f) is None]
        if len(tensors) != 2:
            return None
        scale = math.prod(numbers)
        for x, core in (tensors, tensors[::-1]):
            if not _same_rank(x, call):
                continue
            sigmoid = self._of(core, "relax.sigmoid")
            if sigmoid is not None and sigmoid.args[0].same_as(x) and _close(scale, 1.0):
                return relax.op.nn.silu(x)
            if _close(scale, 0.5) and self._is_error_function(core, x):
                return relax.op.nn.gelu(x)
        return None

    def _of(self, expr: relax.Expr, op: str) -> relax.Call | None:
        """The call of this operator whose result `expr` is, read by nobody else."""
        at = self.graph.index.get(expr)
        if at is None or len(self.graph.users[at]) != 1 or self.graph.leaves[at]:  # 2.
            return None
        call = operator_call(self.graph.bindings[at])
        return call if call is not None and call.op.name == op else None

    def _factors(self, call: relax.Call) -> list[relax.Expr]:
        factors: list[relax.Expr] = []
        for arg in call.args:
            inner = self._of(arg, "relax.multiply")
            factors += [arg] if inner is None else self._factors(inner)
        return factors

    def _is_error_function(self, core: relax.Expr, x: relax.Expr) -> bool:
        """Whether `core` is 1 + erf(x / sqrt(2))."""
        total = self._of(core, "relax.add")
        if total is None:
            return False
        for one, other in (total.args, list(total.args)[::-1]):
            call = self._of(other, "relax.erf")
            if call is None or not _close(_number(one), 1.0):
                continue
            at = call.args[0]
            quotient, product = self._of(at, "relax.divide"), self._of(at, "relax.multiply")
            if quotient is not None:
                is_x = bool(quotient.args[0].same_as(x))
                return is_x and _close(_number(quotient.args[1]), 2**0.5)
            if product is not None:
                for factor, number in (product.args, list(product.args)[::-1]):
                    if factor.same_as(x) and _close(_number(number), 0.5**0.5):
                        return True
        return False


def _same_rank(x: relax.Expr, call: relax.Call) -> bool:
    """Whether the product has the shape of `x`: no factor was broadcast to more axes."""
    return bool(x.ty.ndim == call.ty.ndim)


def _number(expr: relax.Expr) -> float | None:
    """The value of a constant of one element."""
    if not isinstance(expr, GenericConst):
        return None
    array = expr.value.numpy()
    return float(array.reshape(-1)[0]) if array.size == 1 else None


def _close(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=_TOLERANCE)
