"""Average where that leaves less to compute: before a pointwise convolution, or after it.

Before:                                        After:
    a = R.nn.conv2d(x, w)      (1, 128, 56, 56)    p = R.nn.avg_pool2d(x, 2, strides=2)
    y = R.nn.avg_pool2d(a, 2, strides=2)           y = R.nn.conv2d(p, w)   (1, 128, 28, 28)

Before:                                        After:
    p = R.nn.avg_pool2d(x, 3, padding=1)           a = R.nn.conv2d(x, w)
    y = R.nn.conv2d(p, w)       (768 to 192)       y = R.nn.avg_pool2d(a, 3, padding=1)

Fires when: the convolution has one tap, of stride 1 and without padding, nothing else reads what
            lies between the two, and
            1. the pool that comes second leaves at most half of the pixels; or
            2. the pool that comes first keeps their number, and the convolution leaves at most half
               of the channels.
Leaves alone: convolutions in groups, layouts other than NCHW.
Numbers: both are linear, and one adds up pixels where the other adds up channels; sums are taken in
another order. Zeros that pools count beside the map stay zeros, as a convolution adds no bias here.
Gains: DenseNets average between their blocks, where three convolutions are a quarter of what they
were: 11 % of densenet121. Inception pools a quarter of the channels: 2 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax, tirx

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_functions, with_value
from relaxc.passes.fuse.outline import BindingGraph, operator_call

_POOL, _CONV = "relax.nn.avg_pool2d", "relax.nn.conv2d"


@dataclass(frozen=True)
class CommuteAverages(Pass):
    """Exchange average pools and pointwise convolutions that follow each other."""

    name: ClassVar[str] = "commute-averages"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite the dataflow blocks of every function."""
        return rewrite_functions(mod, _rewrite)


def _rewrite(builder: relax.BlockBuilder, block: relax.BindingBlock) -> list[relax.Binding]:
    bindings = list(block.bindings)
    if not isinstance(block, relax.DataflowBlock):
        return bindings
    graph = BindingGraph(bindings)
    for i, second in enumerate(bindings):
        before = _only_read_by(graph, i)
        if before is None:
            continue
        first, last = operator_call(bindings[before]), operator_call(second)
        assert first is not None and last is not None
        if not _pays(first, last):
            continue
        inner = builder.normalize(_on(last, first.args[0]))
        var = relax.DataflowVar(bindings[before].var.name, inner.ty)
        bindings[before] = relax.VarBinding(var, inner)
        bindings[i] = with_value(second, builder.normalize(_on(first, var)))
    return bindings


def _on(call: relax.Call, data: relax.Expr) -> relax.Call:
    """The same operator on other data."""
    return relax.Call(call.op, [data, *call.args[1:]], call.attrs, call.ty_args, call.span)


def _only_read_by(graph: BindingGraph, i: int) -> int | None:
    """The binding of the data of `i`, if one is a pool and the other a convolution."""
    call = operator_call(graph.bindings[i])
    if call is None or call.op.name not in (_POOL, _CONV) or call.args[0] not in graph.index:
        return None
    before = graph.index[call.args[0]]
    producer = operator_call(graph.bindings[before])
    if producer is None or {producer.op.name, call.op.name} != {_POOL, _CONV}:
        return None
    if any(graph.index.get(arg, -1) > before for arg in call.args[1:]):
        return None  # a weight that is computed in between
    return before if graph.users[before] == [i] and not graph.leaves[before] else None


def _pays(first: relax.Call, last: relax.Call) -> bool:
    pool, conv = (first, last) if first.op.name == _POOL else (last, first)
    if not _is_pointwise(conv) or str(pool.attrs.layout) != "NCHW":
        return False
    if conv is first:  # 1.
        before, after = _pixels(pool.args[0]), _pixels(pool)
        return before is not None and after is not None and 2 * after <= before
    channels = [int(d) for d in list(conv.args[1].ty.shape.values)[:2]]
    strides = [int(s) for s in pool.attrs.strides]
    return strides == [1, 1] and 2 * channels[0] <= channels[1]  # 2.


def _is_pointwise(conv: relax.Call) -> bool:
    shape = getattr(conv.args[1].ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or conv.attrs.groups != 1:
        return False
    dims = list(shape.values)
    if not all(isinstance(d, tirx.IntImm) for d in dims) or [int(d) for d in dims[2:]] != [1, 1]:
        return False
    steps = [*conv.attrs.strides, *conv.attrs.padding]
    layouts = {str(conv.attrs.data_layout), str(conv.attrs.out_layout)}
    return [int(n) for n in steps] == [1, 1, 0, 0, 0, 0] and layouts == {"NCHW"}


def _pixels(data: relax.Expr) -> int | None:
    dims = list(data.ty.shape.values)[2:] if isinstance(data.ty.shape, relax.ShapeExpr) else []
    if not dims or not all(isinstance(d, tirx.IntImm) for d in dims):
        return None
    return int(dims[0]) * int(dims[1])
