"""Make of one product whose columns are taken apart several products.

Before:                                       After:
    y = R.matmul(x, w)            (n, 24)         q = R.matmul(x, w[:, :8])
    z = R.add(y, b)                               q1 = R.add(q, b[:8])
    q1 = R.strided_slice(z, columns 0 to 8)       k = R.matmul(x, w[:, 8:16])
    k1 = R.strided_slice(z, columns 8 to 16)      k1 = R.add(k, b[8:16])
    ...                                           ...

Exporters write queries, keys and values as one product, or gate and up. Divided among GPUs, each
needs some columns of every part: equal parts of columns only if the parts are products.

Fires when: 1. the matrix is constant;
            2. between product and slices there are only additions of constant vectors, and reshapes
               and transposes that leave what is sliced an axis of whole blocks of columns, as
               (n, 24) seen as (n, 3, 2, 4) does;
            3. everything else that reads it is slices of blocks that do not overlap.
Exact: every sum is the same sum.
Must run before: shard-layers; merge-parallel-products joins again what reads the same rows.
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
from relaxc.passes.shard.reshaped_axis import reshaped_axis


@dataclass(frozen=True)
class SplitProducts(Pass):
    """Divide products whose columns are read in parts."""

    name: ClassVar[str] = "split-products"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        builder = relax.BlockBuilder(mod.clone())
        return rewrite_main(builder, lambda block: _rewrite(builder, block))


@dataclass(frozen=True)
class _Link:
    """A product, or what follows it.

    Attributes:
        index: of the binding.
        axis: of its result, along which the columns lie.
        width: how many columns one element of this axis stands for.
    """

    index: int
    axis: int
    width: int


@dataclass(frozen=True)
class _Chain:
    """A product, what follows it, and the slices of that.

    Attributes:
        links: the product and what follows, in order.
        slices: index of a slice -> its first column and the one behind its last.
    """

    links: list[_Link]
    slices: dict[int, tuple[int, int]]


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> Sequence[relax.Binding]:
    bindings = list(block.bindings)
    if not isinstance(block, relax.DataflowBlock):
        return bindings
    graph = BindingGraph(bindings)
    dropped: set[int] = set()
    replaced: dict[int, list[relax.Binding]] = {}
    for i, binding in enumerate(bindings):
        chain = _chain(graph, i) if _is_product(binding) else None
        if chain is None:
            continue
        dropped.update(link.index for link in chain.links)
        for index, (start, stop) in chain.slices.items():
            replaced[index] = _part(builder, bindings, chain.links, index, start, stop)
    found: list[relax.Binding] = []
    for i, binding in enumerate(bindings):
        found += [] if i in dropped else replaced.get(i, [binding])
    return found


def _is_product(binding: relax.Binding) -> bool:
    call = operator_call(binding)
    if call is None or str(call.op.name) != "relax.matmul":
        return False
    weight = call.args[1]
    return isinstance(weight, GenericConst) and int(weight.ty.ndim) == 2  # 1.


def _chain(graph: BindingGraph, start: int) -> _Chain | None:
    product = graph.bindings[start].value
    if not all(isinstance(d, tirx.IntImm) for d in product.ty.shape.values):
        return None
    links = [_Link(start, int(product.ty.ndim) - 1, 1)]
    while True:
        last = links[-1]
        index = last.index
        calls = {user: operator_call(graph.bindings[user]) for user in graph.users[index]}
        if graph.leaves[index] or not calls or any(call is None for call in calls.values()):
            return None
        slices = {user: _columns(call, last) for user, call in calls.items()}
        if all(span is not None for span in slices.values()):  # 3.
            spans = {user: span for user, span in slices.items() if span is not None}
            ordered = sorted(spans.values())
            apart = all(a[1] <= b[0] for a, b in zip(ordered, ordered[1:]))
            return _Chain(links, spans) if len(spans) > 1 and apart else None
        if len(calls) > 1:
            return None
        ((user, call),) = calls.items()
        following = _following(call, user, last, graph.bindings[index].var)  # 2.
        if following is None:
            return None
        links.append(following)


def _following(call: relax.Call, index: int, before: _Link, data: relax.Var) -> _Link | None:
    """An operator that leaves blocks of columns where they can be cut."""
    name = str(call.op.name)
    old, new = ([int(d) for d in e.ty.shape.values] for e in (data, call))
    if name == "relax.reshape":
        axis = reshaped_axis(old, new, before.axis)
        if axis is None or old[before.axis] * before.width % new[axis]:
            return None
        return _Link(index, axis, old[before.axis] * before.width // new[axis])
    if name == "relax.permute_dims" and call.attrs.axes is not None:
        order = [int(a) % len(old) for a in call.attrs.axes]
        return _Link(index, order.index(before.axis), before.width)
    vectors = [arg for arg in call.args if not arg.same_as(data)]
    if name != "relax.add" or len(vectors) != 1 or not isinstance(vectors[0], GenericConst):
        return None
    is_along = before.axis == len(old) - 1 and before.width == 1 and new == old
    shape = [int(d) for d in vectors[0].ty.shape.values]
    return _Link(index, before.axis, before.width) if is_along and shape == old[-1:] else None


def _columns(call: relax.Call, link: _Link) -> tuple[int, int] | None:
    """The columns that a slice takes, if it takes just these."""
    if str(call.op.name) != "relax.strided_slice":
        return None
    lists = [list(arg.fields) for arg in call.args[1:] if isinstance(arg, relax.Tuple)]
    if len(lists) != len(call.args) - 1 or any(len(numbers) != 1 for numbers in lists):
        return None
    if not all(isinstance(numbers[0], tirx.IntImm) for numbers in lists):
        return None
    axis, start, stop, *step = (int(numbers[0]) for numbers in lists)
    if axis % int(call.ty.ndim) != link.axis or step not in ([], [1]):
        return None
    size = int(call.args[0].ty.shape.values[link.axis])
    start, stop = (max(0, min(n + size if n < 0 else n, size)) for n in (start, stop))
    return (start * link.width, stop * link.width) if start < stop else None


def _part(
    builder: relax.BlockBuilder,
    bindings: Sequence[relax.Binding],
    links: Sequence[_Link],
    index: int,
    start: int,
    stop: int,
) -> list[relax.Binding]:
    """The product, and what follows it, on the columns of one slice."""
    var = bindings[index].var
    out: list[relax.Binding] = []
    value: relax.Expr | None = None
    for step, link in enumerate(links):
        call = bindings[link.index].value
        name = str(call.op.name)
        if step == 0:
            value = relax.op.matmul(call.args[0], _cut(call.args[1], start, stop))
        elif name == "relax.reshape":
            shape = [int(d) for d in call.ty.shape.values]
            shape[link.axis] = (stop - start) // link.width
            value = relax.op.reshape(value, shape)
        elif name == "relax.permute_dims":
            value = relax.op.permute_dims(value, call.attrs.axes)
        else:
            (vector,) = (arg for arg in call.args if isinstance(arg, GenericConst))
            value = relax.op.add(value, _cut(vector, start, stop))
        made = builder.normalize(value)
        is_last = step == len(links) - 1
        value = var if is_last else relax.DataflowVar(f"{var.name}.{len(links) - step}", made.ty)
        out.append(relax.VarBinding(value, made))
    return out


def _cut(const: GenericConst, start: int, stop: int) -> relax.Expr:
    array = const.value.numpy()[..., start:stop]
    return relax.const(np.ascontiguousarray(array), str(const.ty.dtype.dtype))
