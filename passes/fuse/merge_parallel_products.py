"""Merge products of one tensor with several constant matrices into one product.

Before:                                   After:
    a = R.matmul(x, w1)                       lv = R.matmul(x, w1 | w2)
    a1 = R.add(a, b1)                         lv1 = R.add(lv, b1 | b2)
    b = R.matmul(x, w2)                       a1 = R.strided_slice(lv1, last axis, 0, n1)
    b1 = R.add(b, b2)                         b1 = R.strided_slice(lv1, last axis, n1, n1 + n2)

Queries, keys and values of attention are the case in point: attention reads slices where they lie,
and one wide product fills a GPU that three narrow ones don't.

or, where each is divided into heads of the same depth,

    a = R.matmul(x, w1)                       lv = R.matmul(x, w1 | w2)
    a1 = R.reshape(a, (.., n1, depth))        lv1 = R.reshape(lv, (.., n1 + n2, depth))
    b = R.matmul(x, w2)                       a1 = R.strided_slice(lv1, axis -2, 0, n1)
    b1 = R.reshape(b, (.., n2, depth))        b1 = R.strided_slice(lv1, axis -2, n1, n1 + n2)

Fires when: 1. the matrices are constants of two dimensions, and the tensor's shape is known;
            2. either each product has one reader, which adds a constant vector to it, or none does;
            3. what is left reaches an attention's products by views alone, so that no slice has to
               be copied; or only a reshape into heads reads it: what turns these by their positions
               reads slices as well.
Exact: every sum is the same sum.
Must run before: group-attention, which takes the views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import BindingGraph, operator_call

_VIEWS = ("relax.reshape", "relax.permute_dims")


@dataclass(frozen=True)
class MergeParallelProducts(Pass):
    """Merge the projections of attention."""

    name: ClassVar[str] = "merge-parallel-products"

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        builder = relax.BlockBuilder(mod.clone())
        return rewrite_main(builder, lambda block: _rewrite(builder, block))


@dataclass(frozen=True)
class _Product:
    """A product, and the addition of a vector to it if there is one.

    Attributes:
        index: of the product's binding.
        last: of the addition's, or of the product's.
        split: of the binding that divides what is left into heads, if nothing else reads it.
        reaches_attention: by views alone.
        weight: the matrix.
        bias: the vector.
    """

    index: int
    last: int
    split: int | None
    reaches_attention: bool
    weight: np.ndarray
    bias: np.ndarray | None


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> Sequence[relax.Binding]:
    bindings = list(block.bindings)
    if not isinstance(block, relax.DataflowBlock):
        return bindings
    graph = BindingGraph(bindings)
    groups: dict[relax.Var, list[_Product]] = {}
    for i, binding in enumerate(bindings):
        call = operator_call(binding)
        if call is None or str(call.op.name) != "relax.matmul":
            continue
        product = _product(graph, i, call)
        if product is not None:
            groups.setdefault(call.args[0], []).append(product)
    replaced: dict[int, list[relax.Binding]] = {}
    for data, products in groups.items():
        if len(products) < 2 or len({p.bias is None for p in products}) > 1:
            continue
        if all(p.reaches_attention for p in products):
            replaced |= _merge(builder, bindings, data, products, in_heads=False)
        elif len({_depth(bindings, p) for p in products} | {None}) == 2 and all(
            p.split is not None for p in products
        ):
            replaced |= _merge(builder, bindings, data, products, in_heads=True)
    found: list[relax.Binding] = []
    for i, binding in enumerate(bindings):
        found += replaced.get(i, [binding])
    return found


def _product(graph: BindingGraph, i: int, call: relax.Call) -> _Product | None:
    weight = call.args[1]
    if not isinstance(call.args[0], relax.Var) or not isinstance(weight, GenericConst):
        return None
    if not all(isinstance(d, tirx.IntImm) for d in call.ty.shape.values):  # 1.
        return None
    if weight.ty.ndim != 2 or str(call.ty.dtype.dtype) != "float32":  # 1.
        return None
    last, bias = i, None
    users = graph.users[i]
    if len(users) == 1 and not graph.leaves[i]:
        reader = operator_call(graph.bindings[users[0]])
        if reader is not None and str(reader.op.name) == "relax.add":  # 2.
            vectors = [a for a in reader.args if isinstance(a, GenericConst)]
            if vectors and list(vectors[0].ty.shape.values) == [weight.ty.shape.values[1]]:
                last, bias = users[0], vectors[0].value.numpy()
    split = _split(graph, last)
    reaches = _reaches_attention(graph, last)
    if split is None and not reaches:  # 3.
        return None
    return _Product(i, last, split, reaches, weight.value.numpy(), bias)


def _split(graph: BindingGraph, i: int) -> int | None:
    """The reshape into heads, if that alone reads a value."""
    users = graph.users[i]
    reader = operator_call(graph.bindings[users[0]]) if len(users) == 1 else None
    if graph.leaves[i] or reader is None or str(reader.op.name) != "relax.reshape":
        return None
    if graph.leaves[users[0]]:
        return None
    old, new = (list(e.ty.shape.values) for e in (reader.args[0], reader))
    is_split = len(new) == len(old) + 1 and all(a == b for a, b in zip(old[:-1], new))
    return users[0] if is_split else None


def _depth(bindings: Sequence[relax.Binding], product: _Product) -> int | None:
    split = product.split
    return None if split is None else int(bindings[split].var.ty.shape.values[-1])


def _reaches_attention(graph: BindingGraph, i: int) -> bool:
    """Whether all readers are views, and in the end products of two tensors."""
    if graph.leaves[i] or not graph.users[i]:
        return False
    for user in graph.users[i]:
        call = operator_call(graph.bindings[user])
        if call is None:
            return False
        op = str(call.op.name)
        if op == "relax.matmul":
            if not all(isinstance(arg, relax.Var) and arg.ty.ndim == 4 for arg in call.args):
                return False
        elif op not in _VIEWS or not _reaches_attention(graph, user):
            return False
    return True


def _merge(
    builder: relax.BlockBuilder,
    bindings: Sequence[relax.Binding],
    data: relax.Var,
    products: Sequence[_Product],
    in_heads: bool,
) -> dict[int, list[relax.Binding]]:
    """The whole product where the first one was, and slices of it where the others ended.

    Args:
        builder: normalizes what is new.
        bindings: of the block.
        data: what all multiply.
        products: by constant matrices.
        in_heads: whether the whole is divided into heads, and slices take the place of reshapes.
    """
    new, whole = _whole(builder, bindings, data, products)
    ends = [p.split if in_heads and p.split is not None else p.last for p in products]
    axis = whole.ty.ndim - 1
    # Of columns; or of heads, whose depth comes behind.
    counts = [int(bindings[end].var.ty.shape.values[axis]) for end in ends]
    if in_heads:
        shape = [*whole.ty.shape.values[:-1], sum(counts), _depth(bindings, products[0])]
        heads = builder.normalize(relax.op.reshape(whole, shape))
        var = relax.DataflowVar(f"{whole.name}_heads", heads.ty)
        new.append(relax.VarBinding(var, heads))
        whole = var
    replaced: dict[int, list[relax.Binding]] = {}
    start = 0
    for product, end, count in zip(products, ends, counts):
        stop = start + count
        sliced = relax.op.strided_slice(whole, [axis], [start], [stop], [1], assume_inbound=True)
        part = relax.VarBinding(bindings[end].var, builder.normalize(sliced))
        replaced |= {product.index: [], product.last: []} | {end: [part]}
        start = stop
    at = products[0].index
    replaced[at] = [*new, *replaced[at]]
    return replaced


def _whole(
    builder: relax.BlockBuilder,
    bindings: Sequence[relax.Binding],
    data: relax.Var,
    products: Sequence[_Product],
) -> tuple[list[relax.Binding], relax.Var]:
    """The bindings of one product for all, and its variable."""
    new: list[relax.Binding] = []

    def emit(call: relax.Expr, name: str) -> relax.Var:
        value = builder.normalize(call)
        var = relax.DataflowVar(name, value.ty)
        new.append(relax.VarBinding(var, value))
        return var

    first = bindings[products[0].index].var.name
    weight = np.concatenate([p.weight for p in products], axis=1)
    whole = emit(relax.op.matmul(data, relax.const(weight)), f"{first}_merged")
    biases = [p.bias for p in products if p.bias is not None]
    if biases:
        whole = emit(relax.op.add(whole, relax.const(np.concatenate(biases))), f"{first}_biased")
    return new, whole
