"""Move transposes below elementwise operators, towards whoever wants another layout.

Before:                                      After:
    lv = R.permute_dims(x, axes)                 lv = R.add(x, y)
    lv1 = R.permute_dims(y, axes)                lv1 = R.permute_dims(lv, axes)
    lv2 = R.add(lv, lv1)

Fires when: every tensor operand is a transpose by the same axes, or a constant (which is transposed
now), and at least one is a transpose.
Leaves alone: operands broadcast from fewer elements, unless they are constants.
Exact: elements are computed as before, in another order.
Gains: a residual block between two transposes (ConvNeXt) becomes the epilogue of the product
before it; what remains is one transpose, often a view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions

ELEMENTWISE = frozenset(
    f"relax.{op}"
    for op in (
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "clip", "sigmoid"),
        *("tanh", "erf", "exp", "abs", "negative", "sqrt"),
        *("nn.relu", "nn.leakyrelu", "nn.gelu", "nn.gelu_tanh", "nn.silu", "nn.softplus"),
    )
)


@dataclass(frozen=True)
class SinkPermute(Pass):
    """Compute elementwise operators before transposes instead of after."""

    name: ClassVar[str] = "sink-permute"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of every function."""
        return relax.transform.DeadCodeElimination()(rewrite_functions(mod, _rewrite))


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> list[relax.Binding]:
    if not isinstance(block, relax.DataflowBlock):
        return list(block.bindings)
    permuted: dict[relax.Expr, tuple[relax.Expr, tuple[int, ...]]] = {}
    bindings: list[relax.Binding] = []
    for binding in block.bindings:
        _binding(builder, binding, permuted, bindings)
    return bindings


def _binding(
    builder: relax.BlockBuilder,
    binding: relax.Binding,
    permuted: dict[relax.Expr, tuple[relax.Expr, tuple[int, ...]]],
    out: list[relax.Binding],
) -> None:
    call = getattr(binding, "value", None)
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        out.append(binding)
        return
    if call.op.name == "relax.permute_dims" and call.attrs.axes is not None:
        permuted[binding.var] = (call.args[0], tuple(int(a) for a in call.attrs.axes))
        out.append(binding)
        return
    moved = _moved(call, permuted) if call.op.name in ELEMENTWISE else None
    if moved is None:
        out.append(binding)
        return
    args, axes = moved
    inner = builder.normalize(relax.Call(call.op, args, call.attrs, call.ty_args, call.span))
    before = relax.DataflowVar(f"{binding.var.name}.0", inner.ty)
    out.append(relax.VarBinding(before, inner))
    after = builder.normalize(relax.op.permute_dims(before, list(axes)))
    out.append(relax.VarBinding(binding.var, after))
    permuted[binding.var] = (before, axes)


def _moved(
    call: relax.Call, permuted: dict[relax.Expr, tuple[relax.Expr, tuple[int, ...]]]
) -> tuple[list[relax.Expr], tuple[int, ...]] | None:
    """The operands before the transpose, and its axes; None where they do not agree."""
    axes = {permuted[arg][1] for arg in call.args if arg in permuted}
    if len(axes) != 1:
        return None
    order = axes.pop()
    args: list[relax.Expr] = []
    for arg in call.args:
        if arg in permuted:
            args.append(permuted[arg][0])
        elif isinstance(arg, GenericConst):
            if len(arg.value.shape) > len(order):  # the result has more axes than the transpose
                return None
            args.append(_transposed(arg, order))
        elif isinstance(arg.ty, relax.TensorType):
            return None
        else:
            args.append(arg)
    return args, order


def _transposed(const: GenericConst, axes: tuple[int, ...]) -> relax.Expr:
    """The constant whose transpose by `axes` is `const`, broadcast to the same rank."""
    array = const.value.numpy()
    if array.size == 1:
        return const
    array = array.reshape((1,) * (len(axes) - array.ndim) + array.shape)
    array = np.ascontiguousarray(np.transpose(array, np.argsort(axes)))
    return relax.const(array, array.dtype.name)
