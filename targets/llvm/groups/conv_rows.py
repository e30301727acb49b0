"""2-D convolutions with few outputs: images and signals, as generators write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.layout import PLAIN, Demand, Layout
from relaxc.targets.llvm.groups.base import Group, GroupKernel, KernelFrame, operand_demands
from relaxc.targets.llvm.groups.conv2d import multiplies_all
from relaxc.targets.llvm.groups.relayout import read_anywhere
from relaxc.targets.llvm.kernels import conv_rows, piecewise
from relaxc.targets.llvm.kernels.builder import Expr
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.elementwise import scalar_value
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.machine import Machine


class ConvRows(GroupKernel):
    """Convolution with fewer outputs than lanes, by vectors of columns."""

    name = "conv2d_rows"
    is_product = True

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether it is such a convolution with float weights, and no method multiplies less."""
        if str(call.op.name) != "relax.nn.conv2d" or not isinstance(call.args[1], GenericConst):
            return False
        spec = ConvSpec.of(call)
        if spec is None or not conv_rows.applies(spec, machine.lanes):
            return False
        return multiplies_all(call, spec, machine)

    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Whether other operands are known numbers, one or one per channel."""
        if not super().is_epilogue(call, anchor):
            return False
        shape = tuple(anchor.ty.shape.values)
        others = [a for a in call.args if isinstance(a, GenericConst) and scalar_value(a) is None]
        kinds = {self.domain(shape).broadcasting(list(a.ty.shape.values)) for a in others}
        variables = [a for a in call.args if isinstance(a, relax.Var)]
        return len(variables) == 1 and kinds <= {"channel"}

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """Rows of pixels with the padding around them."""
        wanted = {group.anchor.args[0]: Demand(("plain",), _spec(group).padding)}
        return operand_demands(group, self.domain(group.result_shape), wanted)

    def result_layout(self, group: Group, params: Sequence[Layout], machine: Machine) -> Layout:
        """Rows of pixels."""
        return PLAIN

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel."""
        spec, domain = _spec(group), self.domain(group.result_shape)
        frame = KernelFrame(self.name, group, domain, layouts, machine)
        b, x = frame.b, read_anywhere(frame.b, frame.views[group.anchor.args[0]])
        array = group.anchor.args[1].value.numpy()
        weight = frame.constant("w", conv_rows.pack_weights(array))
        y = frame.result()
        epilogue = replace(group.epilogue, has_tables=b.lanes == piecewise.LANES)
        values = [domain.operand_array(_known(operand.constant)) for operand in epilogue.operands]

        def finish(value: Expr, out: int) -> Expr:
            known = {i: b.splat(float(v[0, out, 0, 0])) for i, v in enumerate(values)}
            return epilogue.apply(b, value, known)

        vectors = conv_rows.choose_vectors(spec, machine.lanes, machine.registers)
        conv_rows.emit(b, spec, vectors, x, weight, y, finish)
        return frame.finish_reading_anywhere()


def _known(values: np.ndarray | None) -> np.ndarray:
    assert values is not None, "is_epilogue() admits constants only"
    return values


def _spec(group: Group) -> ConvSpec:
    spec = ConvSpec.of(group.anchor)
    assert spec is not None, "anchors() admits static convolutions only"
    return spec
