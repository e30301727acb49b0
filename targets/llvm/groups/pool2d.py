"""Pooling windows, and the mean over all pixels."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, tirx

from relaxc.layout import Demand, Layout
from relaxc.targets.llvm.groups.base import Group, GroupKernel, KernelFrame, operand_demands
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.pool import PoolSpec, emit_mean, emit_pool
from relaxc.targets.llvm.machine import Machine


class Pool2d(GroupKernel):
    """Max or average pooling with an elementwise epilogue."""

    name = "pool2d"

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether it is a 2-D pooling of static size."""
        is_pool = str(call.op.name) in ("relax.nn.max_pool2d", "relax.nn.avg_pool2d")
        return is_pool and PoolSpec.of(call) is not None

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """Edges are handled by checks, so no border is needed."""
        wanted = {group.anchor.args[0]: Demand(("blocked", "last"))}
        return operand_demands(group, self.domain(group.result_shape), wanted)

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel."""
        spec = PoolSpec.of(group.anchor)
        assert spec is not None, "anchors() admits static pooling only"
        frame = KernelFrame(
            f"pool2d_{spec.kind}", group, self.domain(group.result_shape), layouts, machine
        )
        operands, y = frame.operands(), frame.result()
        emit_pool(frame.b, spec, frame.views[group.anchor.args[0]], y, operands)
        return frame.finish()


class Mean2d(GroupKernel):
    """The mean over all pixels (global average pooling) with an elementwise epilogue."""

    name = "mean2d"

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether it is a mean over both spatial axes that keeps them."""
        if str(call.op.name) != "relax.mean" or call.attrs.axis is None or not call.attrs.keepdims:
            return False
        data = call.args[0].ty
        if data.ndim != 4 or sorted(int(a) % 4 for a in call.attrs.axis) != [2, 3]:
            return False
        if str(data.dtype.dtype) != "float32" or not isinstance(data.shape, relax.ShapeExpr):
            return False
        return all(isinstance(d, tirx.IntImm) for d in list(data.shape.values)[1:])

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """Channel blocks in any vector layout."""
        wanted = {group.anchor.args[0]: Demand(("blocked", "last"))}
        return operand_demands(group, self.domain(group.result_shape), wanted)

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel."""
        frame = KernelFrame("mean2d", group, self.domain(group.result_shape), layouts, machine)
        operands, y = frame.operands(), frame.result()
        x = frame.views[group.anchor.args[0]]
        emit_mean(frame.b, x, y, frame.dims[0], operands)
        return frame.finish()
