"""Pooling windows, and the mean over all pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tvm import relax, tirx

from relaxc.layout import Demand, Layout
from relaxc.targets.llvm.groups.base import (
    Group,
    GroupKernel,
    KernelFrame,
    epilogue_signature,
    operand_demands,
)
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.pool import PoolSpec, PoolTile, emit_mean, emit_pool, pool_tiles
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.tuning.task import Choice


class Pool2d(GroupKernel):
    """Max or average pooling with an elementwise epilogue."""

    name = "pool2d"
    # Bumped whenever a field of a tile comes to mean other code.
    space_version = 1

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether it is a 2-D pooling of static size."""
        is_pool = str(call.op.name) in ("relax.nn.max_pool2d", "relax.nn.avg_pool2d")
        return is_pool and PoolSpec.of(call) is not None

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """Edges are handled by checks, so no border is needed."""
        wanted = {group.anchor.args[0]: Demand(("blocked", "last"))}
        return operand_demands(group, self.domain(group.result_shape), wanted)

    def workload(self, group: Group, machine: Machine) -> dict[str, Any] | None:
        """Static maps."""
        spec = PoolSpec.of(group.anchor)
        assert spec is not None, "anchors() admits static pooling only"
        if not isinstance(spec.batch, int):
            return None
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(spec).items()}
        fields["in_channels"] = fields["out_channels"] = fields.pop("channels")
        fields["taps"] = fields.pop("window")
        fields["element"] = group.storage(group.anchor.args[0])
        domain = self.domain(group.result_shape)
        return {
            "kernel": self.name,
            "pooling": fields.pop("kind"),
            **fields,
            "epilogue": epilogue_signature(group, domain),
        }

    def space(self, group: Group, machine: Machine) -> list[Choice]:
        """How a map is cut."""
        spec = PoolSpec.of(group.anchor)
        assert spec is not None, "anchors() admits static pooling only"
        return [asdict(tile) for tile in dict.fromkeys([PoolTile(), *pool_tiles(spec)])]

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel."""
        spec = PoolSpec.of(group.anchor)
        assert spec is not None, "anchors() admits static pooling only"
        frame = KernelFrame(
            f"pool2d_{spec.kind}", group, self.domain(group.result_shape), layouts, machine
        )
        operands, y = frame.operands(), frame.result()
        tile = PoolTile()
        if group.choice is not None:
            tile = PoolTile(**group.choice)  # type: ignore[arg-type]
        emit_pool(frame.b, spec, tile, frame.views[group.anchor.args[0]], y, operands)
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
