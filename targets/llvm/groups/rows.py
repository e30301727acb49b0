"""Normalizations over the last dimension, with an elementwise epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from relaxc.layout import PLAIN, Demand, Layout
from relaxc.targets.llvm.groups.base import Group, GroupKernel, KernelFrame, operand_demands
from relaxc.targets.llvm.kernels.domain import Domain, RowDomain, as_int
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.rows import emit_norm, emit_softmax
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine

_NORMS = ("relax.nn.layer_norm", "relax.nn.rms_norm")


class RowKernel(GroupKernel):
    """What the row normalizations have in common: plain tensors, rows of static length."""

    def domain(self, shape: Sequence[Any]) -> Domain:
        """Rows of the result."""
        return RowDomain(tuple(shape))

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """Row-major tensors."""
        wanted = {
            arg: Demand(("plain",)) for arg in group.anchor.args if isinstance(arg, relax.Var)
        }
        return operand_demands(group, self.domain(group.result_shape), wanted)

    def result_layout(self, group: Group, params: Sequence[Layout], machine: Machine) -> Layout:
        """Row-major."""
        return PLAIN


class Norm(RowKernel):
    """Layer and RMS normalization."""

    name = "norm"

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether the last dimension alone is normalized."""
        if str(call.op.name) not in _NORMS or not _has_static_rows(call):
            return False
        rank = call.args[0].ty.ndim
        return [int(axis) % rank for axis in call.attrs.axes] == [rank - 1]

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel."""
        domain = self.domain(group.result_shape)
        frame = KernelFrame("norm", group, domain, layouts, machine)
        call = group.anchor
        centered = str(call.op.name) == "relax.nn.layer_norm"
        weights: list[View | None] = [frame.row_vector(arg) for arg in call.args[1:]]
        operands, y = frame.operands(), frame.result()
        scale, offset = [*weights, None][:2]
        epsilon = float(call.attrs.epsilon)
        x = frame.views[call.args[0]]
        emit_norm(frame.b, x, y, operands, scale, offset, epsilon, centered)
        return frame.finish()


class Softmax(RowKernel):
    """Softmax over the last dimension."""

    name = "softmax"

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether it runs over the last dimension."""
        if str(call.op.name) != "relax.nn.softmax" or not _has_static_rows(call):
            return False
        rank = int(call.args[0].ty.ndim)
        return int(call.attrs.axis) % rank == rank - 1

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel."""
        domain = self.domain(group.result_shape)
        frame = KernelFrame("softmax", group, domain, layouts, machine)
        operands, y = frame.operands(), frame.result()
        emit_softmax(frame.b, frame.views[group.anchor.args[0]], y, operands)
        return frame.finish()


def _has_static_rows(call: relax.Call) -> bool:
    """Whether the data is a float32 variable whose last dimension is known."""
    data = call.args[0]
    if not isinstance(data, relax.Var) or str(data.ty.dtype.dtype) != "float32":
        return False
    if not isinstance(data.ty.shape, relax.ShapeExpr) or not data.ty.shape.values:
        return False
    return as_int(data.ty.shape.values[-1]) is not None
