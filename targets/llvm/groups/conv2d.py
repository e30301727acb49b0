"""2-D convolutions: which algorithm for which shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.layout import PLAIN, Demand, Element, Kind, Layout, Quantization
from relaxc.targets.llvm.groups import conv2d_space as space
from relaxc.targets.llvm.groups.base import (
    Group,
    GroupKernel,
    KernelFrame,
    data_and_factors,
    epilogue_signature,
    operand_demands,
    same_shape,
)
from relaxc.targets.llvm.groups.sparse import Product, Sparsity, is_float
from relaxc.targets.llvm.kernels import (
    conv_banded,
    conv_columns,
    conv_depthwise,
    conv_depthwise_bytes,
    conv_direct,
    conv_packed,
    conv_scaled,
    conv_stem,
    conv_winograd,
    direct_tile,
)
from relaxc.targets.llvm.kernels.arithmetic import arithmetic_of
from relaxc.targets.llvm.kernels.builder import Buffer
from relaxc.targets.llvm.kernels.constants import QuantizedArray, array_of, is_constant, quantized
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.sparse_plan import Window
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.kernels.winograd_plan import Plan, winograd_plan
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.tuning.task import Choice

# Pixels per output from which multiplying weights pays: at two, rows of the map that all outputs
# read together are worth more.
_FEWER = 4


class Conv2d(GroupKernel):
    """Convolution with constant weights and an elementwise epilogue."""

    name = "conv2d"
    is_product = True
    space_version = space.VERSION

    def anchors(self, call: relax.Call, machine: Machine) -> bool:
        """Whether channels and pixels are static."""
        if str(call.op.name) != "relax.nn.conv2d" or not is_constant(call.args[1]):
            return False
        return ConvSpec.of(call) is not None

    def absorbs(self, anchor: relax.Call, call: relax.Call, machine: Machine) -> bool:
        """Whether `call` multiplies channels of the data of a pointwise convolution of one image.

        Its weights are multiplied instead, where these are far fewer than the data.
        """
        spec = ConvSpec.of(anchor) if str(anchor.op.name) == "relax.nn.conv2d" else None
        if spec is None or not isinstance(anchor.args[1], GenericConst):
            return False
        pixels = spec.in_height * spec.in_width
        fits = (spec.batch, spec.groups, spec.kernel) == (1, 1, (1, 1)) and not any(spec.padding)
        if not fits or spec.in_channels < machine.lanes or pixels < _FEWER * spec.out_channels:
            return False
        if has_many_zeros(anchor, spec, machine):
            return False
        if str(call.op.name) != "relax.multiply" or not same_shape(call, spec.in_dims):
            return False
        _, factors = data_and_factors(call)
        return isinstance(factors, relax.Var) and same_shape(factors, (1, spec.in_channels, 1, 1))

    def demands(self, group: Group, data: Layout, machine: Machine) -> list[Demand]:
        """Padding as a border; few channels are read as they come, images without one."""
        spec = _spec(group)
        plan = None if _is_sparse(group, spec, machine) else _plan(group, spec, machine)
        border = plan.border(spec) if plan else spec.padding
        algorithm = _algorithm(spec, plan, machine)
        few = spec.in_channels < machine.lanes and algorithm not in ("depthwise", "packed")
        kinds: tuple[Kind, ...] = ("plain", "blocked") if few else ("blocked", "last")
        is_dense = algorithm == "direct" and not _is_sparse(group, spec, machine)
        # Images of a batch are copied anyway, where they are computed part by part.
        is_batch = isinstance(spec.batch, int) and spec.batch > 1
        if few and data == PLAIN and is_dense and not is_batch and conv_direct.can_skip_edges(spec):
            border = PLAIN.border  # a copy of the image would cost more than looking at its edges
        if _is_quantized(group) and (few or spec.in_channels % 4 or spec.is_depthwise):
            kinds = ("blocked",)  # four neighbours in memory must be channels of a pixel
        wanted = Demand(kinds, border)
        if group.element(group.anchor.args[0]) == "bfloat16" and conv_columns.applies(spec):
            wanted = Demand(("plain",), conv_columns.border(spec), exact=True)
        if _is_stem(group, spec, machine):
            wanted = Demand(("plain",))
        wishes = {group.anchor.args[0]: wanted}
        if group.factors is not None:
            wishes[group.factors] = Demand(("blocked", "last"))
        return operand_demands(group, self.domain(group.result_shape), wishes)

    def workload(self, group: Group, machine: Machine) -> dict[str, Any] | None:
        """Static convolutions by dense weights."""
        spec, element = _spec(group), group.storage(group.anchor.args[0])
        if not isinstance(spec.batch, int) or group.factors is not None:
            return None
        if _is_sparse(group, spec, machine):
            return None
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(spec).items()}
        fields["taps"] = fields.pop("kernel")
        signature = epilogue_signature(group, self.domain(group.result_shape))
        return {"kernel": self.name, **fields, "element": element, "epilogue": signature}

    def space(self, group: Group, machine: Machine) -> list[Choice]:
        """Where there is more than one way."""
        spec, element = _spec(group), group.storage(group.anchor.args[0])
        plan = _method(spec, group.element(group.anchor.args[0]), machine)
        if _algorithm(spec, plan, machine) in ("packed", "banded"):
            return []
        if element == "bfloat16" and conv_columns.applies(spec):
            return []  # its tile is that of another convolution
        if _is_stem(group, spec, machine):
            return []
        return space.conv2d_space(spec, plan, element, machine)

    def gains_from_blocks(self, call: relax.Call, share: float, machine: Machine) -> bool:
        """Whether leaving out zeros is estimated to be faster."""
        spec = ConvSpec.of(call)
        return (
            spec is not None
            and spec.groups == 1
            and _product(call, spec, machine).gains(1 - share, machine)
        )

    def elements(self, group: Group, machine: Machine) -> dict[relax.Var, Element]:
        """Pairs of neighbouring channels, where convolution is direct."""
        spec = _spec(group)
        if _algorithm(spec, _method(spec, "bfloat16", machine), machine) != "direct":
            return {}
        # Fewer channels than lanes are read plain: their neighbours are pixels.
        has_pairs = spec.in_channels % 2 == 0 and spec.in_channels >= machine.lanes
        has_pairs = has_pairs or conv_columns.applies(spec)
        return {group.anchor.args[0]: "bfloat16" if has_pairs else "float32"}

    def lower(self, group: Group, layouts: Sequence[Layout], machine: Machine) -> Kernel:
        """Write the kernel that suits the weights."""
        spec = _spec(group)
        sparsity = _sparsity(group, spec, machine)
        if sparsity is None or not sparsity.is_used:
            kernel = self._dense(group, spec, layouts, machine)
            return kernel if sparsity is None else sparsity.mark(kernel)
        domain = self.domain(group.result_shape)
        frame = KernelFrame(f"conv2d_{sparsity.method}", group, domain, layouts, machine)
        x = frame.views[group.anchor.args[0]]
        return sparsity.mark(
            _product(group.anchor, spec, machine).emit(sparsity.method, frame, x, machine)
        )

    def _dense(
        self, group: Group, spec: ConvSpec, layouts: Sequence[Layout], machine: Machine
    ) -> Kernel:
        """Write the kernel of the algorithm that suits the shape."""
        weight = array_of(group.anchor.args[1])
        plan = _plan(group, spec, machine)
        algorithm = _algorithm(spec, plan, machine)
        reads_elements = False
        if _is_stem(group, spec, machine):
            algorithm = "stem"
        integers = _integers(group, spec, algorithm, machine)
        name = f"conv2d_{algorithm}"
        if integers is not None:
            name = "conv2d_integer" if algorithm == "direct" else f"{name}_integer"
        if group.factors is not None:
            name = "conv2d_scaled"
        frame = KernelFrame(name, group, self.domain(group.result_shape), layouts, machine)
        x = frame.views[group.anchor.args[0]]
        if algorithm == "winograd":
            assert plan is not None
            packed = frame.constant("w", conv_winograd.pack_weights(weight, plan, machine.lanes))
            operands, y = frame.operands(), frame.result()
            conv_winograd.emit(frame.b, spec, plan, x, packed, y, operands)
        elif algorithm == "depthwise" and integers is not None:
            cut = conv_depthwise.choose_tile(spec, machine.lanes)
            if group.choice is not None:
                chosen = space.depthwise_tile_of(group.choice)
                # A record may be of a tile that is too narrow for a window.
                cut = chosen if conv_depthwise_bytes.applies(spec, chosen) else cut
            places = conv_depthwise_bytes.arrangements(spec, cut)
            width = -(-spec.out_channels // machine.lanes) * machine.lanes
            arithmetic = frame.integer_arithmetic(integers, x, width)
            words = conv_depthwise_bytes.pack_weights(integers.integers, places, machine.lanes)
            packed = frame.constant("w", words)
            operands, y = frame.operands(), frame.result()
            conv_depthwise_bytes.emit(frame.b, spec, cut, x, packed, y, operands, arithmetic)
        elif algorithm == "depthwise":
            cut = conv_depthwise.choose_tile(spec, machine.lanes)
            cut = cut if group.choice is None else space.depthwise_tile_of(group.choice)
            w = weight_panels(frame, conv_depthwise.pack_weights(weight, machine.lanes))
            operands, y = frame.operands(), frame.result()
            conv_depthwise.emit(frame.b, spec, cut, x, w, y, operands)
        elif algorithm == "stem":
            packed = frame.constant("w", conv_stem.pack_weights(weight, machine.lanes))
            operands, y = frame.operands(), frame.result()
            conv_stem.emit(frame.b, spec, x, packed, y, operands, machine.cores)
            reads_elements = True
        elif algorithm == "packed":
            packed = frame.constant("w", conv_packed.pack_weights(weight, machine.lanes))
            operands, y = frame.operands(), frame.result()
            conv_packed.emit(frame.b, spec, x, packed, y, operands)
        elif algorithm == "banded":
            bands = conv_banded.choose_tile(spec, machine.lanes, machine.registers)
            panels, table = conv_banded.pack_weights(weight, spec, bands, machine.lanes)
            buffers = frame.constant("w", panels), frame.constant("table", table)
            operands, y = frame.operands(), frame.result()
            conv_banded.emit(frame.b, spec, bands, x, *buffers, y, operands)
        else:
            arithmetic = arithmetic_of(x)
            if arithmetic.element == "bfloat16" and conv_columns.applies(spec):
                x = conv_columns.paired_view(frame.b, x)
                spec, weight = conv_columns.paired_spec(spec), conv_columns.paired_weights(weight)
            is_float = not _is_quantized(group)
            tile = direct_tile.choose_tile(
                spec, machine.lanes, machine.registers, is_float, machine.cores
            )
            tile = tile if group.choice is None else space.tile_of(group.choice)
            if integers is not None:
                weight, width = integers.integers, -(-len(weight) // machine.lanes) * machine.lanes
                arithmetic = frame.integer_arithmetic(integers, x, width)
            w = weight_panels(
                frame, conv_direct.pack_weights(weight, machine.lanes, arithmetic, tile.pairs)
            )
            operands, y = frame.operands(), frame.result()
            reads_elements = x.block == 1 and arithmetic.group == 1
            has_border = all(b >= p for b, p in zip(x.layout.border, spec.padding))
            if group.factors is not None:
                factors, tasks = frame.views[group.factors], max(8, 2 * machine.cores)
                conv_scaled.emit(frame.b, spec, tile, x, factors, w, y, operands, arithmetic, tasks)
            else:
                conv_direct.emit(
                    frame.b, spec, tile, x, w, y, operands, arithmetic, has_border=has_border
                )
        return frame.finish_reading_anywhere() if reads_elements else frame.finish()


def has_many_zeros(call: relax.Call, spec: ConvSpec, machine: Machine) -> bool:
    """Whether a convolution's weights are such that its kernel leaves zeros out."""
    sparsity = _product(call, spec, machine).sparsity(machine)
    return sparsity is not None and sparsity.is_used


def multiplies_all(call: relax.Call, spec: ConvSpec, machine: Machine) -> bool:
    """Whether a convolution would be computed directly, with every weight."""
    plan = _method(spec, "float32", machine)
    is_direct = _algorithm(spec, plan, machine) == "direct"
    return is_direct and not has_many_zeros(call, spec, machine)


def _product(call: relax.Call, spec: ConvSpec, machine: Machine) -> Product:
    plan = _method(spec, "float32", machine)
    saving = 1.0 if plan is None else _saving(spec, plan)
    return Product(array_of(call.args[1]), Window.of(spec), saving)


def _sparsity(group: Group, spec: ConvSpec, machine: Machine) -> Sparsity | None:
    """What zeros of the weight are good for, where there are many."""
    if spec.groups > 1 or not is_float(group):
        return None
    return _product(group.anchor, spec, machine).sparsity(machine)


def _is_sparse(group: Group, spec: ConvSpec, machine: Machine) -> bool:
    sparsity = _sparsity(group, spec, machine)
    return sparsity is not None and sparsity.is_used


def _is_stem(group: Group, spec: ConvSpec, machine: Machine) -> bool:
    """Whether a convolution of an image's few channels multiplies less along columns."""
    return (
        group.element(group.anchor.args[0]) == "float32"
        and isinstance(group.anchor.args[1], GenericConst)
        and not _is_sparse(group, spec, machine)
        and conv_stem.applies(spec, machine.lanes, machine.registers)
    )


def _is_quantized(group: Group) -> bool:
    return Quantization.of(group.element(group.anchor.args[0])) is not None


def _integers(
    group: Group, spec: ConvSpec, algorithm: str, machine: Machine
) -> QuantizedArray | None:
    """The weight, if it can be multiplied as integers."""
    if not _is_quantized(group) or machine.byte_products is None:
        return None
    if algorithm == "depthwise":
        tile = conv_depthwise.choose_tile(spec, machine.lanes)
        if not conv_depthwise_bytes.applies(spec, tile):
            return None
    elif algorithm != "direct":
        return None
    return quantized(group.anchor.args[1], 0)


def _plan(group: Group, spec: ConvSpec, machine: Machine) -> Plan | None:
    if group.choice is not None:
        is_winograd = group.choice["algorithm"] == "winograd"
        return space.plan_of(group.choice, spec, machine) if is_winograd else None
    return _method(spec, group.element(group.anchor.args[0]), machine)


def _method(spec: ConvSpec, element: Element, machine: Machine) -> Plan | None:
    """Winograd's method, which is for float data and multiplies in float32.

    Direct convolution of bfloat16 has twice the rate and needs no transforms, so that only a
    fourfold saving (3x3 kernels on large maps) is worth more.
    """
    if Quantization.of(element) is not None:
        return None
    plan = winograd_plan(spec, machine)
    if plan is None or element != "bfloat16":
        return plan
    return plan if _saving(spec, plan) > 3 else None


def _saving(spec: ConvSpec, plan: Plan) -> float:
    """By how much Winograd's method multiplies less than direct convolution."""
    outputs = plan.rows.outputs * plan.columns.outputs
    return outputs * spec.kernel[0] * spec.kernel[1] / plan.positions


def _algorithm(spec: ConvSpec, plan: Plan | None, machine: Machine) -> str:
    if spec.is_depthwise:
        return "depthwise"
    if plan is not None:
        return "winograd"
    if spec.groups > 1 and conv_packed.applies(spec, machine.lanes):
        return "packed"
    depth, width = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    whole = depth % machine.lanes == 0 and width % machine.lanes == 0
    return "direct" if spec.groups == 1 or whole else "banded"


def weight_panels(frame: KernelFrame, packed: np.ndarray) -> View:
    """A view of packed weights whose rows are the panels of one output block each."""
    buffer: Buffer = frame.constant("w", packed)
    length = int(np.prod(packed.shape[1:]))
    return View(buffer, 0, 0, 0, frame.b.lanes, 0, 0, length, 0, 0, PLAIN)


def _spec(group: Group) -> ConvSpec:
    spec = ConvSpec.of(group.anchor)
    assert spec is not None, "anchors() admits static convolutions only"
    return spec
