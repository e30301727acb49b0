"""2-D convolutions as products of patches with weights, on tensor cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from relaxc.layout import Demand, Element, Kind, Layout, Quantization
from relaxc.targets.cuda.groups.base import (
    Context,
    Group,
    GroupKernel,
    LastMapDomain,
    is_row_epilogue,
)
from relaxc.targets.cuda.groups.tiled import tiling_for, workload_of
from relaxc.targets.cuda.kernels import gemm, tilings
from relaxc.targets.cuda.kernels.elements import element_bytes, element_of
from relaxc.targets.cuda.kernels.epilogue import epilogue_text, vector_width
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.interleave import CHANNELS
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.kernels.launch import PatchMap
from relaxc.targets.cuda.tuning import CONV2D
from relaxc.targets.llvm.kernels.constants import array_of, is_constant
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.domain import as_int


class Conv2d(GroupKernel):
    """Convolution of one group with constant weights and an elementwise epilogue.

    Patches are gathered as tiles are copied to shared memory (implicit GEMM): rows are pixels of
    the result, the depth is (kernel row, kernel column, channel), columns are output channels.
    Up to four channels are padded to four, and neighbouring pixels that fill 16 bytes together
    count as one with all of their channels: see `_Folding`.
    """

    name = "conv2d"
    is_product = True

    def anchors(self, call: relax.Call, context: Context) -> bool:
        """Whether channels and pixels are static, and not divided into groups."""
        if str(call.op.name) != "relax.nn.conv2d" or not is_constant(call.args[1]):
            return False
        spec = ConvSpec.of(call)
        return spec is not None and spec.groups == 1

    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Elementwise operators on whole maps, and with one number per channel."""
        return is_row_epilogue(call, LastMapDomain(tuple(anchor.ty.shape.values)))

    def demands(self, group: Group, data: Layout, context: Context) -> list[Demand]:
        """Channels last; a few in blocks of four, or read one by one, however they come."""
        domain = LastMapDomain(tuple(group.result_shape))
        spec, context = _spec(group), context.of(group, 0)
        found = []
        for param in group.func.params:
            if param.same_as(group.anchor.args[0]):
                few = spec.in_channels % _per_chunk(context)
                folded = _Folding.of(spec, context) is not None
                kinds: tuple[Kind, ...] = ("plain", "last") if few else ("last",)
                found.append(Demand(("blocked",) if folded else kinds, exact=folded))
            else:
                full = domain.broadcasting(list(param.ty.shape.values)) == "full"
                found.append(Demand(("last",) if full else ("plain",)))
        return found

    def result_layout(self, group: Group, params: Sequence[Layout]) -> Layout:
        """Channels last."""
        return Layout("last")

    def elements(self, group: Group, context: Context) -> dict[relax.Var, Element]:
        """As the tensor cores take them; single channels are converted on the way."""
        spec = _spec(group)
        if group.integers(0) is not None:
            return {}
        if spec.in_channels % _per_chunk(context) and _Folding.of(spec, context) is None:
            return {}
        return {group.anchor.args[0]: element_of(context.mode)}

    def lower(self, group: Group, layouts: Sequence[Layout], context: Context) -> Kernel:
        """Write the kernel."""
        spec, context, integers = _spec(group), context.of(group, 0), group.integers(0)
        data, weight = group.anchor.args
        pixels = spec.out_height * spec.out_width
        rows = spec.batch * pixels
        folding = _Folding.of(spec, context)
        values = array_of(weight) if integers is None else integers.weight.integers
        matrix = values.transpose(2, 3, 1, 0)
        if folding is not None:
            spec, matrix = folding.folded(spec), folding.weights(matrix)
        matrix = matrix.reshape(-1, spec.out_channels)
        depth = len(matrix)
        columns = spec.out_channels
        frame = Frame("conv2d", group.func, layouts)
        frame.label = tilings.label(rows, columns, depth)
        layout = layouts[list(group.func.params).index(data)]
        a = _patches(spec, frame, data, layout, context, folding)
        tiling = tiling_for(
            context,
            (as_int(rows), columns, depth, 1),
            _workload(group, (layout, layouts[-1])),
            packed=True,
            is_fetched=a.is_fetched,
        )
        tiling = gemm.fitted(tiling, a, depth, context.mode)
        element = element_of(context.mode)
        packed = gemm.pack_weights(matrix, tiling, context.mode)
        pointer = frame.constant(packed, element, gemm.packed_as(matrix, tiling, context.mode))
        b = gemm.Operand(pointer, element, True, {"B_BATCH": 0})
        rescale = None
        if integers is not None:
            rescale = integers.rescale(matrix)
        text = gemm.source(
            context.mode,
            tiling,
            columns,
            depth,
            a,
            b,
            vector_width(columns, layouts[-1]),
            epilogue_text(group.epilogue, LastMapDomain(group.result_shape), frame, rescale),
        )
        return gemm.finish(frame, text, rows, columns, 1, tiling, a, context.gpu)


@dataclass(frozen=True)
class _Folding:
    """Pixels of four channels that are read together.

    Attributes:
        pixels: how many fill 16 bytes, or half of that.
        before: zeros in front of each row of the kernel, so that it begins at a whole group.
    """

    pixels: int
    before: int

    @staticmethod
    def of(spec: ConvSpec, context: Context) -> _Folding | None:
        """How to read a map of a few channels; None where rows begin within a group."""
        whole = spec.in_channels % _per_chunk(context) == 0
        if spec.in_channels > CHANNELS or whole:  # whole vectors without this
            return None
        for pixels in (_per_chunk(context) // CHANNELS, _per_chunk(context) // CHANNELS // 2):
            if not pixels or spec.in_width % pixels or spec.stride[1] % pixels:
                continue
            if spec.dilation[1] == 1 or pixels == 1:
                return _Folding(pixels, -spec.padding[1] % pixels)
        return None

    def folded(self, spec: ConvSpec) -> ConvSpec:
        """The same convolution of groups of pixels."""
        top, left, bottom, right = spec.padding
        return replace(
            spec,
            in_channels=self.pixels * CHANNELS,
            in_width=spec.in_width // self.pixels,
            kernel=(spec.kernel[0], -(-(spec.kernel[1] + self.before) // self.pixels)),
            stride=(spec.stride[0], spec.stride[1] // self.pixels),
            padding=(top, (left + self.before) // self.pixels, bottom, right),
        )

    def weights(self, weight: np.ndarray) -> np.ndarray:
        """(kernel row, column, channel, output) for groups of pixels."""
        rows, columns, channels, outputs = weight.shape
        groups = -(-(columns + self.before) // self.pixels)
        wide = np.zeros((rows, groups * self.pixels, CHANNELS, outputs), weight.dtype)
        wide[:, self.before : self.before + columns, :channels] = weight
        return wide


def _patches(
    spec: ConvSpec,
    frame: Frame,
    data: relax.Var,
    layout: Layout,
    context: Context,
    folding: _Folding | None,
) -> gemm.Operand:
    """How gemm.cu finds a patch's elements."""
    pointer = frame.pointer(data)
    channels, height, width = spec.in_channels, spec.in_height, spec.in_width
    is_last = layout.kind in ("last", "blocked")
    if is_last:
        strides = (width * channels, channels, 1)
    else:
        strides = (width, 1, height * width)
    names = ("OH", "OW", "C", "H", "W", "KW", "STRIDE_H", "STRIDE_W", "DIL_H", "DIL_W")
    values = (
        *(spec.out_height, spec.out_width, channels, height, width, spec.kernel[1]),
        *(*spec.stride, *spec.dilation),
    )
    constants = dict(zip(names, values))
    constants |= {"PAD_H": spec.padding[0], "PAD_W": spec.padding[1]}
    constants |= dict(zip(("A_H", "A_W", "A_C"), strides))
    constants |= {"A_IMAGE": channels * height * width, "A_BATCH": 0}
    per_copy = _per_chunk(context) if folding is None else folding.pixels * CHANNELS
    vectors = is_last and channels % per_copy == 0
    # Where every pixel is a patch, the map is a matrix.
    is_matrix = (
        vectors
        and channels % _per_chunk(context) == 0
        and spec.kernel == (1, 1)
        and spec.stride == (1, 1)
        and not any(spec.padding)
    )
    constants["A_ROW"] = channels
    is_stored = context.mode == "int8" or layout.element == element_of(context.mode)
    is_matrix = is_matrix and is_stored
    switches = ["CONV"]
    if vectors and per_copy < _per_chunk(context):
        switches.append("A_HALVES")
    stored = Quantization.of(layout.element)
    if vectors and stored is not None and stored.zero_point and any(spec.padding):
        fill = np.full(16, stored.zero_point, np.uint8).view(np.int8)
        switches.append(f"A_FILL ((const TA*){frame.constant(fill, 'int8')})")
    patches = None
    if is_stored and vectors and not is_matrix and not any("A_FILL" in s for s in switches):
        patches = _fetched_patches(spec, context)
    return gemm.Operand(
        pointer, layout.element, vectors, constants, tuple(switches), is_matrix, patches
    )


def _fetched_patches(spec: ConvSpec, context: Context) -> PatchMap | None:
    """Patches as the copy engine takes them; None where it can't.

    A tile is of one pixel each of many patches: its depth must be a part of the channels.
    """
    pixel_bytes = spec.in_channels * element_bytes(context.mode)
    if pixel_bytes % 64:
        return None
    down, across = spec.stride
    top, left = spec.padding[:2]
    lower, strides = (-left, -top), (across, down)
    upper = (
        (spec.out_width - 1) * across - left - (spec.in_width - 1),
        (spec.out_height - 1) * down - top - (spec.in_height - 1),
    )
    reach = [(k - 1) * d for k, d in zip(spec.kernel, spec.dilation)]
    if max(strides) > 8 or max(reach) > 255 or any(not -128 <= c <= 127 for c in lower + upper):
        return None
    return PatchMap(
        *(-1, spec.batch, spec.in_height, spec.in_width, spec.in_channels),
        *(strides, lower, upper),
        row_bytes=64 if pixel_bytes % 128 else 128,
    )


def _per_chunk(context: Context) -> int:
    return 16 // element_bytes(context.mode)


def _workload(group: Group, stored: tuple[Layout, Layout]) -> dict[str, Any]:
    spec, domain = _spec(group), LastMapDomain(tuple(group.result_shape))
    names = ("in_channels", "in_height", "in_width", "out_channels", "out_height", "out_width")
    fields = {name: getattr(spec, name) for name in (*names, "stride", "dilation", "padding")}
    fields |= {"taps": spec.kernel, "batch": as_int(spec.batch), "order": stored[0].kind}
    return workload_of(CONV2D, group, domain, stored, **fields)


def _spec(group: Group) -> ConvSpec:
    spec = ConvSpec.of(group.anchor)
    assert spec is not None, "anchors() admits static convolutions only"
    return spec
