"""2-D convolutions as products of patches with weights, on tensor cores."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax
from tvm.ir import GenericConst

from relaxc.layout import Demand, Element, Layout
from relaxc.targets.cuda.groups.base import (
    Context,
    Group,
    GroupKernel,
    LastMapDomain,
    is_row_epilogue,
)
from relaxc.targets.cuda.kernels import gemm, tilings
from relaxc.targets.cuda.kernels.elements import element_bytes, element_of
from relaxc.targets.cuda.kernels.epilogue import epilogue_lines, vector_width
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.domain import as_int


class Conv2d(GroupKernel):
    """Convolution of one group with constant weights and an elementwise epilogue.

    Patches are gathered as tiles are copied to shared memory (implicit GEMM): rows are pixels of
    the result, the depth is (kernel row, kernel column, channel), columns are output channels.
    """

    name = "conv2d"
    is_product = True

    def anchors(self, call: relax.Call, context: Context) -> bool:
        """Whether channels and pixels are static, and not divided into groups."""
        if str(call.op.name) != "relax.nn.conv2d" or not isinstance(call.args[1], GenericConst):
            return False
        spec = ConvSpec.of(call)
        return spec is not None and spec.groups == 1

    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Elementwise operators on whole maps, and with one number per channel."""
        return is_row_epilogue(call, LastMapDomain(tuple(anchor.ty.shape.values)))

    def demands(self, group: Group, data: Layout, context: Context) -> list[Demand]:
        """Channels last; a few channels are read one by one, in whatever order they come."""
        domain = LastMapDomain(tuple(group.result_shape))
        spec = _spec(group)
        found = []
        for param in group.func.params:
            if param.same_as(group.anchor.args[0]):
                few = spec.in_channels % _per_chunk(context)
                found.append(Demand(("plain", "last") if few else ("last",)))
            else:
                full = domain.broadcasting(list(param.ty.shape.values)) == "full"
                found.append(Demand(("last",) if full else ("plain",)))
        return found

    def result_layout(self, group: Group, params: Sequence[Layout]) -> Layout:
        """Channels last."""
        return Layout("last")

    def elements(self, group: Group, context: Context) -> dict[relax.Var, Element]:
        """As the tensor cores take them; single channels are converted on the way."""
        if _spec(group).in_channels % _per_chunk(context):
            return {}
        return {group.anchor.args[0]: element_of(context.mode)}

    def lower(self, group: Group, layouts: Sequence[Layout], context: Context) -> Kernel:
        """Write the kernel."""
        spec = _spec(group)
        data, weight = group.anchor.args
        pixels = spec.out_height * spec.out_width
        rows = spec.batch * pixels
        depth = spec.kernel[0] * spec.kernel[1] * spec.in_channels
        columns = spec.out_channels
        frame = Frame("conv2d", group.func, layouts)
        layout = layouts[list(group.func.params).index(data)]
        a = _patches(spec, frame.pointer(data), layout, context)
        tiling = tilings.choose_tiling(
            *(as_int(rows), columns, depth, 1, context.gpu, context.mode),
            packed=True,
            is_matrix=a.is_matrix,
        )
        matrix = weight.value.numpy().transpose(2, 3, 1, 0).reshape(depth, columns)
        element = element_of(context.mode)
        packed = gemm.pack_weights(matrix, tiling, context.mode)
        b = gemm.Operand(frame.constant(packed, element), element, True, {"B_BATCH": 0})
        text = gemm.source(
            context.mode,
            tiling,
            columns,
            depth,
            a,
            b,
            vector_width(columns, layouts[-1]),
            epilogue_lines(group.epilogue, LastMapDomain(tuple(group.result_shape)), frame),
        )
        return gemm.finish(frame, text, rows, columns, 1, tiling, a, context.gpu)


def _patches(spec: ConvSpec, pointer: str, layout: Layout, context: Context) -> gemm.Operand:
    """How gemm.cu finds a patch's elements."""
    channels, height, width = spec.in_channels, spec.in_height, spec.in_width
    if layout.kind == "last":
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
    vectors = layout.kind == "last" and channels % _per_chunk(context) == 0
    # Where every pixel is a patch, the map is a matrix.
    is_matrix = (
        vectors and spec.kernel == (1, 1) and spec.stride == (1, 1) and not any(spec.padding)
    )
    constants["A_ROW"] = channels
    is_stored = layout.element == element_of(context.mode)
    is_matrix = is_matrix and is_stored
    return gemm.Operand(pointer, layout.element, vectors, constants, ("CONV",), is_matrix)


def _per_chunk(context: Context) -> int:
    return 16 // element_bytes(context.mode)


def _spec(group: Group) -> ConvSpec:
    spec = ConvSpec.of(group.anchor)
    assert spec is not None, "anchors() admits static convolutions only"
    return spec
