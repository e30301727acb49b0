"""Elementwise operators that follow no other kernel."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from tvm import relax

from relaxc.layout import PLAIN, Demand, Layout
from relaxc.targets.llvm.groups.base import (
    Group,
    GroupKernel,
    KernelFrame,
    is_elementwise,
    operand_demands,
    same_shape,
)
from relaxc.targets.llvm.kernels.builder import Index, KernelBuilder, even_tiles
from relaxc.targets.llvm.kernels.domain import Domain, MapDomain, RowDomain, as_int
from relaxc.targets.llvm.kernels.elementwise import Epilogue
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.rows import Row
from relaxc.targets.llvm.kernels.streaming import fence, pays, stream
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine


class Elementwise(GroupKernel):
    """A chain of elementwise operators: on maps in vector layouts, on rows of plain tensors."""

    name = "elementwise"

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether one operand has the result's shape, and the others are broadcast to it."""
        return _pixels(call) is not None and any(
            is_elementwise(call, domain) for domain in _domains(call)
        )

    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Whether every way to compute the anchor computes this, too."""
        usable = [domain for domain in _domains(anchor) if is_elementwise(anchor, domain)]
        return all(is_elementwise(call, domain) for domain in usable)

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """The layout that the data has, where that is possible."""
        group = _whole(group)
        domain = _choose(group, data)
        kinds = Demand(("plain",) if isinstance(domain, RowDomain) else ("blocked", "last"))
        return operand_demands(group, domain, {group.epilogue.start: kinds})

    def result_layout(self, group: Group, params: Sequence[Layout], machine: Machine) -> Layout:
        """As the data."""
        start = list(group.func.params).index(_whole(group).epilogue.start)
        return params[start].with_border((0, 0, 0, 0)).without_slice()

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """One pass over the data."""
        group = _whole(group)
        start = list(group.func.params).index(group.epilogue.start)
        domain = _choose(group, layouts[start])
        frame = KernelFrame("elementwise", group, domain, layouts, machine)
        if isinstance(domain, RowDomain):
            _emit_rows(frame, group)
        else:
            _emit_map(frame, group)
        return frame.finish()


def _emit_rows(frame: KernelFrame, group: Group) -> None:
    operands, y = frame.operands(), frame.result()
    b, x = frame.b, frame.views[group.epilogue.start]
    row = Row(b, x.channels)
    with b.parallel(x.width) as r:
        base = b.let(x.at(0, 0, 0, r))

        def body(at: object, count: int) -> None:
            value = b.load_partial(x.buffer, base + at, count)
            row.store(y, r, at, count, operands, value)

        row.each(body)


def _emit_map(frame: KernelFrame, group: Group) -> None:
    operands, y = frame.operands(), frame.result()
    b, x = frame.b, frame.views[group.epilogue.start]
    streams = _streams(b, y, frame.dims[0])
    finish = functools.partial(fence, b) if streams else None
    with b.parallel(frame.dims[0] * y.blocks * y.height, finish) as t:
        h, plane = b.let(t % y.height), b.let(t // y.height)
        n, cb = b.let(plane // y.blocks), b.let(plane % y.blocks)
        y.zero_row_border(b, n, cb, h)
        for start, size, count in even_tiles(y.width, 4):
            with b.loop(count) as tile:
                for i in range(size):
                    w = tile * size + (start + i)
                    value = b.load(x.buffer, x.at(n, cb, h, w))
                    result = operands.apply(b, value, n, cb, h, w)
                    if streams:
                        stream(b, y.buffer, y.at(n, cb, h, w), b.let(result), b.lanes)
                    else:
                        b.store(y.buffer, y.at(n, cb, h, w), result)


def _streams(b: KernelBuilder, y: View, batch: Index) -> bool:
    """Whether pixels of blocks of channels are written around the caches."""
    is_plain = not y.buffer.is_bfloat16 and y.buffer.quantization is None
    if not is_plain or y.block != b.lanes or any(y.layout.border) or y.channels % b.lanes:
        return False
    count = batch * y.channels * y.height * y.width
    return pays(b, count, 4, (y.pixel, y.plane, y.image, y.origin))


def _domains(call: relax.Call) -> list[Domain]:
    """The iteration spaces in which a result of this shape could be computed."""
    shape = getattr(call.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or not shape.values:
        return []
    dims = tuple(shape.values)
    domains: list[Domain] = []
    if len(dims) == 4 and all(as_int(d) is not None for d in dims[1:]):
        domains.append(MapDomain(dims))
    if as_int(dims[-1]) is not None:
        domains.append(RowDomain(dims))
    return domains


def _choose(group: Group, data: Layout) -> Domain:
    """Rows where the data is plain and every operator allows it, else the map."""
    bindings = [b.value for block in group.func.body.blocks for b in block.bindings]
    usable = [
        domain
        for domain in _domains(group.anchor)
        if all(is_elementwise(call, domain) for call in bindings)
    ]
    kind = RowDomain if data.same_memory(PLAIN) else MapDomain
    return next((domain for domain in usable if isinstance(domain, kind)), usable[0])


def _pixels(call: relax.Call) -> relax.Var | None:
    """The first variable operand that has the result's shape."""
    shape = getattr(getattr(call, "ty", None), "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    dims = list(shape.values)
    variables = (a for a in call.args if isinstance(a, relax.Var))
    return next((v for v in variables if same_shape(v, dims)), None)


def _whole(group: Group) -> Group:
    """The group as an epilogue of its data: there is no anchor to compute."""
    bindings = [(b.var, b.value) for block in group.func.body.blocks for b in block.bindings]
    start = _pixels(group.anchor)
    assert start is not None, "anchors() admits calls with such an operand only"
    return Group(group.func, group.anchor, Epilogue.of(start, bindings))
