"""Transposed 2-D convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from tvm import relax

from relaxc.layout import PLAIN, Demand, Element, Kind, Layout, Quantization
from relaxc.targets.llvm.groups.base import (
    Group,
    GroupKernel,
    KernelFrame,
    epilogue_signature,
    operand_demands,
)
from relaxc.targets.llvm.groups.conv2d_space import direct_choice, direct_tiles, tile_of, unique
from relaxc.targets.llvm.kernels import conv_banded, conv_direct, conv_packed, direct_tile
from relaxc.targets.llvm.kernels.arithmetic import UINT8, arithmetic_of
from relaxc.targets.llvm.kernels.constants import QuantizedArray, array_of, is_constant, quantized
from relaxc.targets.llvm.kernels.conv_transpose import TransposeSpec
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.tuning.task import Choice


class ConvTranspose(GroupKernel):
    """Transposed convolution with constant weights and an elementwise epilogue."""

    name = "conv2d_transpose"
    is_product = True
    # Bumped whenever a field of a tile comes to mean other code.
    space_version = 2

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether channels and pixels are static."""
        if str(call.op.name) != "relax.nn.conv2d_transpose":
            return False
        return is_constant(call.args[1]) and TransposeSpec.of(call) is not None

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """The border that the phases reach over."""
        spec = _spec(group)
        kinds: tuple[Kind, ...] = ("blocked", "last")
        if _is_quantized(group) and spec.in_channels % UINT8.group:
            kinds = ("blocked",)  # four neighbours in memory must be channels of a pixel
        wanted = Demand(kinds, spec.border())
        domain = self.domain(group.result_shape)
        return operand_demands(group, domain, {group.anchor.args[0]: wanted})

    def elements(self, group: Group, machine: Machine) -> dict[relax.Var, Element]:
        """Pairs of neighbouring channels."""
        if _spec(group).groups > 1:
            return {}
        has_pairs = _spec(group).in_channels % 2 == 0
        return {group.anchor.args[0]: "bfloat16" if has_pairs else "float32"}

    def workload(self, group: Group, machine: Machine) -> dict[str, Any] | None:
        """Static convolutions without groups."""
        spec = _spec(group)
        if not isinstance(spec.batch, int) or spec.groups > 1:
            return None
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(spec).items()}
        fields["taps"] = fields.pop("kernel")
        fields["in_height"], fields["in_width"] = fields.pop("in_size")
        fields["out_height"], fields["out_width"] = fields.pop("out_size")
        fields["element"] = group.storage(group.anchor.args[0])
        signature = epilogue_signature(group, self.domain(group.result_shape))
        return {"kernel": self.name, **fields, "epilogue": signature}

    def space(self, group: Group, machine: Machine) -> list[Choice]:
        """Tiles of direct convolution, where all phases would choose the same one."""
        specs = [phase.spec for phase in _spec(group).phases()]
        own = {direct_tile.choose_tile(s, machine.lanes, machine.registers, False) for s in specs}
        if len(own) > 1:
            return []
        first = own.pop()
        return unique(
            [direct_choice(t) for t in (first, *direct_tiles(specs[0], first, False, machine))]
        )

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """One convolution per phase, in one kernel."""
        spec = _spec(group)
        weight = array_of(group.anchor.args[1])
        domain = self.domain(group.result_shape)
        integers = _integers(group, spec, machine)
        name = "conv2d_transpose" if integers is None else "conv2d_transpose_integer"
        frame = KernelFrame(name, group, domain, layouts, machine)
        if spec.groups > 1:
            _emit_grouped(frame, spec, weight, group.anchor.args[0], machine)
            return frame.finish()
        phases = spec.phases()
        x = frame.views[group.anchor.args[0]]
        if integers is None:
            weights = [phase.weights(weight) for phase in phases]
            ways = [arithmetic_of(x)] * len(phases)
        else:
            # Every phase makes up for the zero point of its own taps.
            weights = [phase.weights(integers.integers) for phase in phases]
            width = -(-spec.out_channels // machine.lanes) * machine.lanes
            shares = [QuantizedArray(w, integers.scale) for w in weights]
            ways = [frame.integer_arithmetic(share, x, width) for share in shares]
        packed = [conv_direct.pack_weights(w, machine.lanes, a) for w, a in zip(weights, ways)]
        buffer = frame.constant("w", np.concatenate([p.reshape(-1) for p in packed]))
        operands, y = frame.operands(), frame.result()
        origin = 0
        for phase, panels, arithmetic in zip(phases, packed, ways):
            length = int(np.prod(panels.shape[1:]))
            w = View(buffer, 0, 0, 0, machine.lanes, 0, 0, length, 0, origin, PLAIN)
            tile = direct_tile.choose_tile(phase.spec, machine.lanes, machine.registers, False)
            tile = tile if group.choice is None else tile_of(group.choice)
            placement = conv_direct.Placement(phase.start, spec.stride)
            conv_direct.emit(frame.b, phase.spec, tile, x, w, y, operands, arithmetic, placement)
            origin += panels.size
        return frame.finish()


def _emit_grouped(
    frame: KernelFrame, spec: TransposeSpec, weight: np.ndarray, data: relax.Var, machine: Machine
) -> None:
    """Groups that share vectors are packed, others become a banded matrix."""
    lanes, phases = machine.lanes, spec.phases()
    weights = [phase.weights(weight) for phase in phases]
    placements = [conv_direct.Placement(phase.start, spec.stride) for phase in phases]
    x = frame.views[data]
    if all(conv_packed.applies(phase.spec, lanes) for phase in phases):
        packed = [
            frame.constant(f"w{i}", conv_packed.pack_weights(w, lanes))
            for i, w in enumerate(weights)
        ]
        operands, y = frame.operands(), frame.result()
        for phase, w, placement in zip(phases, packed, placements):
            conv_packed.emit(frame.b, phase.spec, x, w, y, operands, placement)
        return
    tiles = [conv_banded.choose_tile(p.spec, lanes, machine.registers) for p in phases]
    panels = []
    for i, (phase, w, tile) in enumerate(zip(phases, weights, tiles)):
        arrays = conv_banded.pack_weights(w, phase.spec, tile, lanes)
        panels.append([frame.constant(f"{n}{i}", a) for n, a in zip(("w", "table"), arrays)])
    operands, y = frame.operands(), frame.result()
    for phase, tile, (w, table), placement in zip(phases, tiles, panels, placements):
        conv_banded.emit(frame.b, phase.spec, tile, x, w, table, y, operands, placement)


def _is_quantized(group: Group) -> bool:
    return Quantization.of(group.element(group.anchor.args[0])) is not None


def _integers(group: Group, spec: TransposeSpec, machine: Machine) -> QuantizedArray | None:
    """The weight, if it can be multiplied as integers."""
    if spec.groups > 1 or not _is_quantized(group) or machine.byte_products is None:
        return None
    return quantized(group.anchor.args[1], 1)


def _spec(group: Group) -> TransposeSpec:
    spec = TransposeSpec.of(group.anchor)
    assert spec is not None, "anchors() admits static convolutions only"
    return spec
