"""An expansion and the depthwise convolution of its result, as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from tvm import relax
from tvm.ir import GenericConst

from relaxc.layout import KERNEL, Demand, Element, Layout
from relaxc.targets.llvm.groups.base import Group, GroupKernel, KernelFrame, operand_demands
from relaxc.targets.llvm.groups.conv2d import Conv2d, has_many_zeros, weight_panels
from relaxc.targets.llvm.kernels import conv_depthwise, conv_direct, conv_expanded, direct_tile
from relaxc.targets.llvm.kernels.arithmetic import arithmetic_of
from relaxc.targets.llvm.kernels.constants import array_of
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.domain import MapDomain
from relaxc.targets.llvm.kernels.elementwise import Epilogue
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.machine import Machine

# Rows of the result, at least, in a task: a window's rows are computed twice where tasks meet.
_ROWS = 7


@dataclass(frozen=True)
class _Stages:
    """Both convolutions of a group, each with its epilogue."""

    first: Group
    second: Group
    expansion: ConvSpec
    depthwise: ConvSpec

    @staticmethod
    def of(func: relax.Function) -> _Stages:
        bindings = [(b.var, b.value) for block in func.body.blocks for b in block.bindings]
        at = [i for i, (_, call) in enumerate(bindings) if call.op.name == "relax.nn.conv2d"]
        start, middle = at
        groups = [
            Group(func, bindings[a][1], Epilogue.of(bindings[a][0], bindings[a + 1 : end]))
            for a, end in ((start, middle), (middle, len(bindings)))
        ]
        specs = [cast(ConvSpec, ConvSpec.of(group.anchor)) for group in groups]
        return _Stages(groups[0], groups[1], specs[0], specs[1])


class Expansion(GroupKernel):
    """A pointwise convolution whose result a depthwise one alone reads."""

    name = "expansion"
    is_product = True

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """None: such groups are made of others."""
        return False

    def joins(self, first: relax.Function, second: relax.Function, machine: Machine) -> bool:
        """Whether two groups are such convolutions, with a map that the cores' caches do not hold.

        It is the same for several images, but these are computed in parts.
        """
        if any(func.attrs[KERNEL] != Conv2d.name for func in (first, second)):
            return False
        groups = [Group.of(func) for func in (first, second)]
        specs = [ConvSpec.of(group.anchor) for group in groups]
        if None in specs or not all(isinstance(g.anchor.args[1], GenericConst) for g in groups):
            return False
        a, d = specs
        assert a is not None and d is not None
        pointwise = (a.batch, a.groups, a.kernel, a.stride) == (1, 1, (1, 1), (1, 1))
        if not pointwise or any(a.padding) or a.in_channels < machine.lanes:
            return False
        if len(first.params) > 1 or groups[0].factors is not None or not d.is_depthwise:
            return False
        if d.dilation != (1, 1) or any(s > k for s, k in zip(d.stride, d.kernel)):
            return False
        if has_many_zeros(groups[0].anchor, a, machine):
            return False
        return _ring_bytes(d, machine) <= machine.l1_bytes and _worth_it(a, machine)

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """Channel blocks, without a border: the map between has one."""
        stages = _Stages.of(group.func)
        wanted = {stages.first.anchor.args[0]: Demand(("blocked",))}
        return operand_demands(stages.second, self.domain(group.result_shape), wanted)

    def elements(self, group: Group, machine: Machine) -> dict[relax.Var, Element]:
        """Pairs of neighbouring channels."""
        stages = _Stages.of(group.func)
        has_pairs = stages.expansion.in_channels % 2 == 0
        return {stages.first.anchor.args[0]: "bfloat16" if has_pairs else "float32"}

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel."""
        stages, lanes = _Stages.of(group.func), machine.lanes
        first, second = stages.first, stages.second
        domain = self.domain(group.result_shape)
        frame = KernelFrame("conv2d_expanded", second, domain, layouts, machine)
        x = frame.views[first.anchor.args[0]]
        arithmetic = arithmetic_of(x)
        weights = [array_of(g.anchor.args[1]) for g in (first, second)]
        tile = direct_tile.choose_tile(stages.expansion, lanes, machine.registers, is_float=False)
        if tile.blocks * _ring_bytes(stages.depthwise, machine) > machine.l1_bytes // 2:
            narrow = replace(stages.expansion, out_channels=lanes)
            tile = direct_tile.choose_tile(narrow, lanes, machine.registers)
        dense = weight_panels(frame, conv_direct.pack_weights(weights[0], lanes, arithmetic))
        taps = weight_panels(frame, conv_depthwise.pack_weights(weights[1], lanes))
        between = MapDomain(tuple(first.anchor.ty.shape.values))
        inner = frame.operands(first.epilogue, between)
        outer, y = frame.operands(), frame.result()
        bands = max(1, min(machine.cores, stages.depthwise.out_height // _ROWS))
        conv_expanded.emit(
            frame.b,
            conv_expanded.Stage(stages.expansion, dense, inner),
            conv_expanded.Stage(stages.depthwise, taps, outer),
            tile,
            bands,
            x,
            y,
            arithmetic,
        )
        return frame.finish()


def _worth_it(spec: ConvSpec, machine: Machine) -> bool:
    """Whether the map between is too large for a core's cache: of what it holds, rows cost more."""
    return 4 * spec.out_channels * spec.out_height * spec.out_width > machine.l2_bytes


def _ring_bytes(spec: ConvSpec, machine: Machine) -> int:
    """Of the rows of a window, of one channel block."""
    width = spec.padding[1] + spec.in_width + spec.padding[3]
    return 4 * machine.lanes * spec.kernel[0] * width
