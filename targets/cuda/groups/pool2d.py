"""Pooling windows, and the mean over all pixels, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm import relax, tirx

from relaxc.layout import Demand, Layout
from relaxc.targets.cuda.groups.base import (
    Context,
    Group,
    GroupKernel,
    LastMapDomain,
    is_float,
    is_row_epilogue,
)
from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.epilogue import epilogue_text, vector_width
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.llvm.kernels.pool import PoolSpec

_HERE = Path(gemm.__file__).parent
_THREADS = 256


class _Pooling(GroupKernel):
    """What both have in common."""

    def is_epilogue(self, call: relax.Call, anchor: relax.Call) -> bool:
        """Elementwise operators on whole maps, and with one number per channel."""
        return is_row_epilogue(call, LastMapDomain(tuple(anchor.ty.shape.values)))

    def demands(self, group: Group, data: Layout, context: Context) -> list[Demand]:
        """Channels last; vectors are plain."""
        domain = LastMapDomain(tuple(group.result_shape))
        found = []
        for param in group.func.params:
            is_data = param.same_as(group.anchor.args[0])
            full = is_data or domain.broadcasting(list(param.ty.shape.values)) == "full"
            found.append(Demand(("last",) if full else ("plain",)))
        return found

    def result_layout(self, group: Group, params: Sequence[Layout]) -> Layout:
        """Channels last."""
        return Layout("last")

    def _source(
        self, file: str, constants: dict[str, int], group: Group, frame: Frame, layout: Layout
    ) -> str:
        width = vector_width(constants["C"], layout)
        epilogue = epilogue_text(group.epilogue, LastMapDomain(group.result_shape), frame)
        lines = [
            "#define MODE 0",
            f"#define X_POINTER {frame.pointer(group.anchor.args[0])}",
            gemm.prelude(),
            *(f"constexpr int {name} = {value};" for name, value in constants.items()),
            f"constexpr int V = {width};",
            (_HERE / file).read_text(encoding="utf-8"),
        ]
        return epilogue.alone("\n".join(lines))


class Pool2d(_Pooling):
    """Max or average pooling with an elementwise epilogue."""

    name = "pool2d"

    def anchors(self, call: relax.Call, context: Context) -> bool:
        """Whether it is a 2-D pooling of static size."""
        is_pool = str(call.op.name) in ("relax.nn.max_pool2d", "relax.nn.avg_pool2d")
        return is_pool and isinstance(call.args[0], relax.Var) and PoolSpec.of(call) is not None

    def lower(self, group: Group, layouts: Sequence[Layout], context: Context) -> Kernel:
        """Write the kernel."""
        spec = PoolSpec.of(group.anchor)
        assert spec is not None, "anchors() admits static pooling only"
        names = ("C", "H", "W", "OH", "OW", "KH", "KW", "STRIDE_H", "STRIDE_W", "DIL_H", "DIL_W")
        values = (
            *(spec.channels, spec.in_height, spec.in_width, spec.out_height, spec.out_width),
            *(*spec.window, *spec.stride, *spec.dilation),
        )
        constants = dict(zip(names, values))
        constants |= {"PAD_H": spec.padding[0], "PAD_W": spec.padding[1]}
        constants |= {"IS_MAX": int(spec.kind == "max"), "COUNT_PADDING": int(spec.count_padding)}
        frame = Frame("pool2d", group.func, layouts)
        text = self._source("pool.cu", constants, group, frame, layouts[-1])
        pixels = spec.batch * spec.out_height * spec.out_width
        vectors = pixels * (spec.channels // vector_width(spec.channels, layouts[-1]))
        blocks = (vectors + (_THREADS - 1)) // _THREADS
        return frame.finish(text, [blocks], _THREADS, 0, [pixels])


class Mean2d(_Pooling):
    """The mean over all pixels (global average pooling) with an elementwise epilogue."""

    name = "mean2d"

    def anchors(self, call: relax.Call, context: Context) -> bool:
        """Whether it is a mean over both spatial axes that keeps them."""
        if str(call.op.name) != "relax.mean" or call.attrs.axis is None or not call.attrs.keepdims:
            return False
        data = call.args[0]
        if not isinstance(data, relax.Var) or not is_float(data):
            return False
        if data.ty.ndim != 4 or sorted(int(a) % 4 for a in call.attrs.axis) != [2, 3]:
            return False
        return all(isinstance(d, tirx.IntImm) for d in list(data.ty.shape.values)[1:])

    def lower(self, group: Group, layouts: Sequence[Layout], context: Context) -> Kernel:
        """Write the kernel."""
        dims: list[Any] = list(group.anchor.args[0].ty.shape.values)
        batch = int(dims[0]) if isinstance(dims[0], tirx.IntImm) else dims[0]
        channels, height, width = (int(d) for d in dims[1:])
        frame = Frame("mean2d", group.func, layouts)
        constants = {"C": channels, "PIXELS": height * width}
        text = self._source("mean.cu", constants, group, frame, layouts[-1])
        per_block = 32 * vector_width(channels, layouts[-1])
        grid = [-(-channels // per_block), batch]
        return frame.finish(text, grid, _THREADS, per_block * 8 * 4)
