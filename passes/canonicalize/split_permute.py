"""Permute the dimensions that two reshapes merge and split again, without merging them.

Before:                                          After:
    lv = R.reshape(x, (b * h, n, d))                 lv2 = R.permute_dims(x, (0, 1, 3, 2))
    lv1 = R.permute_dims(lv, (0, 2, 1))
    lv2 = R.reshape(lv1, (b, h, d, n))

Fires when: the first reshape merges neighbours only, and the second gives every dimension of what
was merged back, in the order that the transpose leaves.
Leaves alone: the first two, where others read them.
Exact: the same elements in the same places.
Gains: keys of an attention are a view of the projection again. PyTorch's exporter writes them as
above; of a batch, merged heads are no view, so that scores were products in memory. ViT, batch 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import IRModule, relax, tirx
from tvm.sym import Analyzer

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions


@dataclass(frozen=True)
class SplitPermute(Pass):
    """Make one transpose of a reshape, a transpose and a reshape."""

    name: ClassVar[str] = "split-permute"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of every function."""
        return relax.transform.DeadCodeElimination()(rewrite_functions(mod, _rewrite))


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> list[relax.Binding]:
    calls: dict[relax.Expr, relax.Call] = {}
    bindings: list[relax.Binding] = []
    for binding in block.bindings:
        call = getattr(binding, "value", None)
        if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op):
            calls[binding.var] = call
            found = _permuted(call, calls) if isinstance(block, relax.DataflowBlock) else None
            if found is not None:
                value = builder.normalize(relax.op.permute_dims(*found))
                binding = relax.VarBinding(binding.var, value)
        bindings.append(binding)
    return bindings


def _permuted(
    last: relax.Call, calls: Mapping[relax.Expr, relax.Call]
) -> tuple[relax.Expr, list[int]] | None:
    """What a reshape permutes, and how, if all it does is to give dimensions back."""
    permute = calls.get(last.args[0]) if last.op.name == "relax.reshape" else None
    if permute is None or permute.op.name != "relax.permute_dims":
        return None
    first = calls.get(permute.args[0])
    if first is None or first.op.name != "relax.reshape":
        return None
    source = first.args[0]
    shapes = [_dims(expr) for expr in (source, first, last)]
    if None in shapes or permute.attrs.axes is None:
        return None
    before, merged, after = (list(shape or ()) for shape in shapes)
    groups = _groups(before, merged)
    if groups is None:
        return None
    axes = [axis for group in permute.attrs.axes for axis in groups[int(group)]]
    if len(axes) != len(after):
        return None
    return (source, axes) if all(_same(before[a], d) for a, d in zip(axes, after)) else None


def _dims(expr: relax.Expr) -> list[Any] | None:
    shape = getattr(expr.ty, "shape", None)
    return list(shape.values) if isinstance(shape, relax.ShapeExpr) else None


def _groups(before: Sequence[Any], merged: Sequence[Any]) -> list[list[int]] | None:
    """Which neighbours each merged dimension is made of; None if it is of anything else."""
    groups: list[list[int]] = []
    position = 0
    for size in merged:
        group: list[int] = []
        product = tirx.IntImm("int64", 1)
        while position < len(before) and not (group and _same(product, size)):
            product = product * before[position]
            group.append(position)
            position += 1
        if not group or not _same(product, size):
            return None
        groups.append(group)
    return groups if position == len(before) else None


def _same(a: Any, b: Any) -> bool:
    return bool(Analyzer().can_prove_equal(a, b))
