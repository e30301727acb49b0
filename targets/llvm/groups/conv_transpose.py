"""Transposed 2-D convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.layout import PLAIN, Demand, Layout
from relaxc.targets.llvm.groups.base import Group, GroupKernel, KernelFrame, operand_demands
from relaxc.targets.llvm.kernels import conv_direct
from relaxc.targets.llvm.kernels.conv_transpose import TransposeSpec
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine


class ConvTranspose(GroupKernel):
    """Transposed convolution with constant weights and an elementwise epilogue."""

    name = "conv2d_transpose"

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether the shapes are static and there is one group of channels."""
        if str(call.op.name) != "relax.nn.conv2d_transpose":
            return False
        return isinstance(call.args[1], GenericConst) and TransposeSpec.of(call) is not None

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """The border that the phases reach over."""
        wanted = Demand(("blocked", "last"), _spec(group).border())
        domain = self.domain(group.result_shape)
        return operand_demands(group, domain, {group.anchor.args[0]: wanted})

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """One direct convolution per phase, in one kernel."""
        spec = _spec(group)
        weight = group.anchor.args[1].value.numpy()
        domain = self.domain(group.result_shape)
        frame = KernelFrame("conv2d_transpose", group, domain, layouts, machine)
        phases = spec.phases()
        packed = [conv_direct.pack_weights(p.weights(weight), machine.lanes) for p in phases]
        buffer = frame.constant("w", np.concatenate([p.reshape(-1) for p in packed]))
        operands, y = frame.operands(), frame.result()
        x = frame.views[group.anchor.args[0]]
        origin = 0
        for phase, panels in zip(phases, packed):
            length = int(np.prod(panels.shape[1:]))
            w = View(buffer, 0, 0, 0, machine.lanes, 0, 0, length, 0, origin, PLAIN)
            tile = conv_direct.choose_tile(phase.spec, machine.lanes, machine.registers)
            placement = conv_direct.Placement(phase.start, spec.stride)
            conv_direct.emit(frame.b, phase.spec, tile, x, w, y, operands, placement)
            origin += panels.size
        return frame.finish()


def _spec(group: Group) -> TransposeSpec:
    spec = TransposeSpec.of(group.anchor)
    assert spec is not None, "anchors() admits static convolutions only"
    return spec
