"""Group what stacks planes of a volume for a convolution: views, zero planes, and a gather.

    v = R.permute_dims(x, [0, 2, 1, 3, 4])      if the volume has its channels first, and
    m = R.reshape(v, (n * d, c, h, w))          was no map before
    p = R.reshape(m, (n, d, c, h, w))
    z = R.nn.pad(p, [0, 0, 0, 1, ...])          a plane of zeros, where the convolution pads
    t = R.take(z, planes, axis=1)
    s = R.reshape(t, (n, outputs, taps * c, h, w))
    y = R.reshape(s, (n * outputs, taps * c, h, w))

becomes one call to a private function with `kernel = "planes"`, which copies each plane once, into
the layout that the convolution reads; as operators, each would copy all of them.

Fires when: 1. planes are constants, and all dimensions static;
            2. the target has a kernel for these shapes.
In a quantized model, what is gathered is rounded in front of each view and again behind it, if
alike: once will do.

Exact. Bindings are copied into the group, not moved: others may read them.
Must run after: flatten-maps, which writes this. Must run before: choose-layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import tvm_ffi
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.layout import PLANES
from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main, substitute, with_value
from relaxc.passes.fuse.outline import BindingGraph, operator_call
from relaxc.passes.fuse.outline_pattern import outline_pattern


class PlanesLibrary(Protocol):
    """What the pass asks of a target."""

    def has_planes(self, func: relax.Function) -> bool:
        """Whether a group of this form has a kernel."""


@dataclass(frozen=True)
class GroupPlanes(Pass):
    """Outline gathers of planes.

    Attributes:
        library: the target's kernels.
    """

    library: PlanesLibrary

    name: ClassVar[str] = "group-planes"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Group in every dataflow block of `main`."""
        mod = rewrite_main(relax.BlockBuilder(mod), _rounded_once)
        return outline_pattern(mod, PLANES, _find, self.library.has_planes)  # 2.


def _find(graph: BindingGraph, last: int) -> list[list[int]]:
    """The gather that ends here: at best with the transpose of the volume."""
    stacked = _producer(graph, last, "relax.reshape")
    taken = None if stacked is None else _producer(graph, stacked, "relax.reshape")
    if stacked is None or taken is None or not _gathers_planes(graph, taken):
        return []
    found = [taken, stacked, last]
    padded = _producer(graph, taken, "relax.take")
    if padded is not None and _op(graph, padded) == "relax.nn.pad":
        found.insert(0, padded)
    planes = _producer(graph, found[0], _op(graph, found[0]))
    if planes is None or _op(graph, planes) != "relax.reshape":
        return []
    found.insert(0, planes)
    images = _producer(graph, planes, "relax.reshape")
    if images is None or _op(graph, images) != "relax.reshape":
        return [found]
    turned = _producer(graph, images, "relax.reshape")
    if turned is None or _op(graph, turned) != "relax.permute_dims":
        return [found]
    return [[turned, images, *found], found]


def _op(graph: BindingGraph, i: int) -> str:
    call = operator_call(graph.bindings[i])
    return "" if call is None else str(call.op.name)


def _producer(graph: BindingGraph, i: int, op: str) -> int | None:
    """What computes the data of a binding, if that is this operator."""
    call = operator_call(graph.bindings[i])
    if call is None or str(call.op.name) != op or not isinstance(call.args[0], relax.Var):
        return None
    return graph.index.get(call.args[0])


def _gathers_planes(graph: BindingGraph, i: int) -> bool:
    call = operator_call(graph.bindings[i])
    if call is None or str(call.op.name) != "relax.take" or call.attrs.axis is None:
        return False
    is_const = isinstance(call.args[1], GenericConst)  # 1.
    return is_const and int(call.attrs.axis) == 1 and int(call.ty.ndim) == 5


def _rounded_once(block: relax.BindingBlock) -> list[relax.Binding]:
    """The block, in which views of gathered planes read what is not rounded yet, if they are."""
    bindings = list(block.bindings)
    graph = BindingGraph(bindings)
    gathered = {b.var for i, b in enumerate(bindings) if _gathers_planes(graph, i)}
    for i, binding in enumerate(bindings):
        first = _producer(graph, i, "relax.reshape")
        rounded = None if first is None else _producer(graph, first, "relax.dequantize")
        if first is None or rounded is None or _op(graph, rounded) != "relax.quantize":
            continue
        source = bindings[rounded].value.args[0]
        again = [operator_call(bindings[user]) for user in graph.users[i]]
        alike = all(c is not None and _rounds_alike(c, bindings[rounded].value) for c in again)
        if source in gathered and again and alike and not graph.leaves[i]:
            gathered.add(binding.var)
            changed = substitute(binding.value, {bindings[first].var: source})
            bindings[i] = with_value(binding, changed)
    return bindings


def _rounds_alike(call: relax.Call, other: relax.Call) -> bool:
    """Whether both quantize to the same integers."""
    if str(call.op.name) != "relax.quantize" or call.ty.dtype != other.ty.dtype:
        return False
    return all(tvm_ffi.structural_equal(a, b) for a, b in zip(call.args[1:], other.args[1:]))
