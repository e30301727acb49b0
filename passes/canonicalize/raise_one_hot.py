"""Take rows of a matrix instead of multiplying it by ones and zeros.

Before:                                       After:
    lv = R.equal(x, [0, 1, 2, ...])               lv = R.reshape(x, ...)
    lv1 = R.astype(lv, "float32")                 lv1 = R.where(0 <= lv < rows, lv, rows)
    gv = R.matmul(lv1, w)                         gv = R.take(w with a row of zeros, lv1, axis=0)

Exporters write one-hot encodings like that. A row is read where a matrix was multiplied; and the
table loses nothing to quantization of the product's data.
Fires when: 1. x holds integers along an axis of length 1, which is compared with 0, 1, 2, ...;
            2. w is a constant matrix of finite numbers: zero times infinity is not zero.
Leaves alone: encodings that something else reads.
Exact.
Must run after: fold-constant. Must run before: quantization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import BindingGraph, operator_call


@dataclass(frozen=True)
class RaiseOneHot(Pass):
    """Turn products of one-hot encodings into lookups."""

    name: ClassVar[str] = "raise-one-hot"

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""

        def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            bindings = list(block.bindings)
            graph = BindingGraph(bindings)
            result: list[relax.Binding] = []
            for binding in bindings:
                indices = _indices(graph, binding)
                result += [binding] if indices is None else _lookup(binding, indices)
            return result

        if not any(_is_product(b) for block in mod["main"].body.blocks for b in block.bindings):
            return mod
        return relax.transform.DeadCodeElimination()(rewrite_main(relax.BlockBuilder(mod), rewrite))


def _is_product(binding: relax.Binding) -> bool:
    call = operator_call(binding)
    if call is None or str(call.op.name) != "relax.matmul":
        return False
    data, weight = call.args
    if not isinstance(data, relax.Var) or not isinstance(weight, GenericConst):
        return False
    is_float = str(weight.ty.dtype.dtype) == "float32" and weight.ty.ndim == 2
    return is_float and bool(np.isfinite(weight.value.numpy()).all())  # 2.


def _indices(graph: BindingGraph, binding: relax.Binding) -> relax.Expr | None:
    """What is encoded by the data of a product; None if it is no encoding."""
    if not _is_product(binding):
        return None
    cast = _only_read(graph, binding.value.args[0])
    if cast is None or str(cast.op.name) != "relax.astype":
        return None
    compared = _only_read(graph, cast.args[0])
    if compared is None or str(compared.op.name) != "relax.equal":
        return None
    rows = int(binding.value.args[1].ty.shape.values[0])
    for x, steps in (compared.args, compared.args[::-1]):  # 1.
        if not isinstance(steps, GenericConst) or not isinstance(x, relax.Var):
            continue
        numbers = np.asarray(steps.value.numpy())
        dims = list(x.ty.shape.values) if isinstance(x.ty.shape, relax.ShapeExpr) else []
        is_index = str(x.ty.dtype.dtype) in ("int32", "int64") and x.ty.ndim == compared.ty.ndim
        is_row = numbers.shape[-1:] == (rows,) and numbers.size == rows
        if not (is_index and is_row and dims and _is_one(dims[-1])):
            continue
        if np.array_equal(numbers.reshape(-1), np.arange(rows)):
            return x
    return None


def _is_one(dim: object) -> bool:
    return hasattr(dim, "value") and int(dim.value) == 1


def _only_read(graph: BindingGraph, var: relax.Expr) -> relax.Call | None:
    """The operator that gives a variable, if nothing else reads that."""
    index = graph.index.get(var)
    if index is None or graph.leaves[index] or len(graph.users[index]) != 1:
        return None
    return operator_call(graph.bindings[index])


def _lookup(binding: relax.Binding, x: relax.Expr) -> list[relax.Binding]:
    name, dtype = str(binding.var.name), str(x.ty.dtype.dtype)
    weight = np.asarray(binding.value.args[1].value.numpy())
    builder = relax.BlockBuilder()
    result: list[relax.Binding] = []

    def held(suffix: str, value: relax.Expr) -> relax.Var:
        value = builder.normalize(value)
        result.append(relax.VarBinding(relax.DataflowVar(f"{name}.{suffix}", value.ty), value))
        return result[-1].var

    rows = relax.const(len(weight), dtype)
    index = held("index", relax.op.reshape(x, list(x.ty.shape.values)[:-1]))
    low = held("low", relax.op.greater_equal(index, relax.const(0, dtype)))
    high = held("high", relax.op.less(index, rows))
    known = held("known", relax.op.logical_and(low, high))
    row = held("row", relax.op.where(known, index, rows))
    table = relax.const(np.concatenate([weight, np.zeros_like(weight[:1])]))
    taken = builder.normalize(relax.op.take(table, row, axis=0))
    return [*result, relax.VarBinding(binding.var, taken)]
