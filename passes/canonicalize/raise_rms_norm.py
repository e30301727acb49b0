"""Raise RMS normalization, which exporters write out, back to one operator.

Before:                                            After:
    lv = R.power(x, 2)      # or R.square, x * x       gv = R.nn.rms_norm(x, g, axes=[-1], eps)
    lv1 = R.mean(lv, axis=[-1], keepdims=True)
    lv2 = R.add(lv1, eps)
    lv3 = R.sqrt(lv2)       # or R.rsqrt, R.power(-0.5)
    lv4 = R.divide(x, lv3)  # or R.multiply
    gv = R.multiply(lv4, g)

Fires when: 1. x is float32, and so is g, a constant vector as long as x's last dimension, in
               whatever order the factors come; without one, g is ones;
            2. the mean is that of squares over the last axis, which is kept;
            3. nothing else reads what lies between (else it would be computed twice).
Changes results by: rounding only.
Must run after: fold-constant. Must run before: group-ops.
Gains: a row is read once, instead of two or three times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions
from relaxc.passes.fuse.outline import BindingGraph, operator_call


@dataclass(frozen=True)
class RaiseRmsNorm(Pass):
    """Recognize RMS normalization by its formula."""

    name: ClassVar[str] = "raise-rms-norm"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of every function."""
        return relax.transform.DeadCodeElimination()(rewrite_functions(mod, _rewrite))


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> list[relax.Binding]:
    bindings = list(block.bindings)
    calls = [operator_call(binding) for binding in bindings]
    if not isinstance(block, relax.DataflowBlock) or not any(
        call is not None and call.op.name == "relax.mean" for call in calls
    ):
        return bindings
    matcher = _Matcher(BindingGraph(bindings))
    result: list[relax.Binding] = []
    for binding, call in zip(bindings, calls):
        found = None if call is None else matcher.normalized(call)
        if found is not None:
            x, scale, epsilon = found
            raised = relax.op.nn.rms_norm(x, relax.const(scale), axes=[-1], epsilon=epsilon)
            binding = relax.VarBinding(binding.var, builder.normalize(raised))
        result.append(binding)
    return result


class _Matcher:
    """Looks at quotients and products from the end back."""

    def __init__(self, graph: BindingGraph) -> None:
        self.graph = graph

    def normalized(self, call: relax.Call) -> tuple[relax.Var, np.ndarray, float] | None:
        """What is normalized, the scale, and epsilon, if `call` ends a normalization."""
        if str(call.op.name) == "relax.multiply" and str(call.ty.dtype.dtype) == "float32":
            for inner, scale in (call.args, list(call.args)[::-1]):
                found = self._quotient(self._call(inner))
                if found is not None and _is_vector(scale, found[0]):  # 1.
                    return found[0], scale.value.numpy().reshape(-1), found[1]
        found = self._quotient(call)
        if found is None or self._is_scaled(call):
            return None
        return found[0], np.ones(int(found[0].ty.shape.values[-1]), np.float32), found[1]

    def _is_scaled(self, call: relax.Call) -> bool:
        """Whether the one reader multiplies by a vector: then that is where it ends."""
        at = next(i for i, b in enumerate(self.graph.bindings) if b.value.same_as(call))
        users = self.graph.users[at]
        reader = operator_call(self.graph.bindings[users[0]]) if len(users) == 1 else None
        if self.graph.leaves[at] or reader is None or str(reader.op.name) != "relax.multiply":
            return False
        return any(_is_vector(arg, call) for arg in reader.args)

    def _quotient(self, call: relax.Call | None) -> tuple[relax.Var, float] | None:
        """x and epsilon of `x / sqrt(mean(x * x) + epsilon)`."""
        if call is None or str(call.op.name) not in ("relax.multiply", "relax.divide"):
            return None
        if str(call.ty.dtype.dtype) != "float32":
            return None
        op = str(call.op.name)
        pairs = [tuple(call.args)]
        if op == "relax.multiply":
            pairs.append((call.args[1], call.args[0]))
        for x, root in pairs:
            if not isinstance(x, relax.Var):
                continue
            inner = self._under_root(root, op == "relax.divide")
            epsilon = None if inner is None else self._epsilon(inner, x)
            if epsilon is not None:
                return x, epsilon
        return None

    def _under_root(self, root: relax.Expr, is_divisor: bool) -> relax.Expr | None:
        """What a square root is taken of: its reciprocal, where it is multiplied by."""
        call = self._call(root)
        if call is None:
            return None
        op, arg = str(call.op.name), call.args[0]
        if op == ("relax.sqrt" if is_divisor else "relax.rsqrt"):
            return arg
        if op == "relax.power" and _number(call.args[1]) == (0.5 if is_divisor else -0.5):
            return arg
        if not is_divisor and op == "relax.divide" and _number(arg) == 1.0:
            return self._under_root(call.args[1], True)
        return None

    def _epsilon(self, total: relax.Expr, x: relax.Expr) -> float | None:
        call = self._call(total)
        if call is None or str(call.op.name) != "relax.add":
            return None
        for mean, number in (call.args, list(call.args)[::-1]):
            epsilon = _number(number)
            if epsilon is not None and self._is_mean_of_squares(mean, x):
                return epsilon
        return None

    def _is_mean_of_squares(self, expr: relax.Expr, x: relax.Expr) -> bool:
        mean = self._call(expr)
        if mean is None or str(mean.op.name) != "relax.mean" or not mean.attrs.keepdims:
            return False
        rank = int(x.ty.ndim)
        axes = [int(axis) % rank for axis in mean.attrs.axis or range(rank)]
        last = x.ty.shape.values[-1] if isinstance(x.ty.shape, relax.ShapeExpr) else None
        if axes != [rank - 1] or not hasattr(last, "value"):  # 2.
            return False
        square = self._call(mean.args[0])
        if square is None or not square.args[0].same_as(x):
            return False
        op = str(square.op.name)
        if op == "relax.multiply":
            return bool(square.args[1].same_as(x))
        return op == "relax.square" or (op == "relax.power" and _number(square.args[1]) == 2.0)

    def _call(self, expr: relax.Expr) -> relax.Call | None:
        """The operator whose result `expr` is, read by nobody else."""
        at = self.graph.index.get(expr) if isinstance(expr, relax.Var) else None
        if at is None or len(self.graph.users[at]) != 1 or self.graph.leaves[at]:  # 3.
            return None
        return operator_call(self.graph.bindings[at])


def _number(expr: relax.Expr) -> float | None:
    if not isinstance(expr, GenericConst):
        return None
    array = expr.value.numpy()
    return float(array.reshape(-1)[0]) if array.size == 1 and array.dtype == np.float32 else None


def _is_vector(expr: relax.Expr, x: relax.Expr) -> bool:
    """Whether an operand is a constant with one number for each of the last dimension of `x`."""
    if not isinstance(expr, GenericConst) or str(expr.ty.dtype.dtype) != "float32":
        return False
    own, last = [int(d) for d in expr.ty.shape.values], x.ty.shape.values[-1]
    fits = bool(own) and own[-1] == getattr(last, "value", None) and len(own) <= int(x.ty.ndim)
    return fits and all(d == 1 for d in own[:-1])
