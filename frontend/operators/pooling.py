"""MaxPool with indices, its inverse, and RoiAlign of maxima."""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type, no-untyped-def"

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx
from tvm.script import tirx as T

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.stock import convert_with_tvm
from relaxc.frontend.operators.vectors import product


def max_pool(ctx: NodeContext) -> relax.Expr:
    """MaxPool; with the positions of the maxima where the node asks for them."""
    values = ctx.bb.emit(convert_with_tvm(ctx))
    if len(ctx.node.output) < 2 or not ctx.node.output[1]:
        return values
    kernel = [int(k) for k in ctx.attrs["kernel_shape"]]
    rank = len(kernel)
    strides = [int(s) for s in ctx.attrs.get("strides") or [1] * rank]
    dilations = [int(d) for d in ctx.attrs.get("dilations") or [1] * rank]
    is_row_major = not ctx.attrs.get("storage_order", 0)

    def compute(x: te.Tensor, best: te.Tensor) -> te.Tensor:
        size, result = list(x.shape)[2:], list(best.shape)[2:]
        pads = _pads_before(ctx, size, result, kernel, strides, dilations)
        taps = [te.reduce_axis((0, k), name=f"k{d}") for d, k in enumerate(kernel)]
        nothing = tirx.max_value("int64")

        def element(n: Any, c: Any, *where: Any) -> Any:
            at = [
                i * s - p + t.var * d
                for i, s, p, t, d in zip(where, strides, pads, taps, dilations)
            ]
            inside = tirx.all(*(tirx.all(a >= 0, a < s) for a, s in zip(at, size)))
            position: Any = tirx.IntImm("int64", 0)
            order = range(rank) if is_row_major else reversed(range(rank))
            for d in order:
                position = position * size[d] + at[d]
            plane = (n * x.shape[1] + c) * product(size)
            is_best = tirx.if_then_else(inside, x(n, c, *at) == best(n, c, *where), False)
            # Of equal maxima, the first counts.
            return te.min(tirx.Select(is_best, plane + position, nothing), axis=taps)

        return te.compute(best.shape, element, name="max_positions")

    return relax.Tuple([values, ctx.emit_te(compute, ctx.input(0), values, name="max_positions")])


def _pads_before(
    ctx: NodeContext,
    size: list[Any],
    result: list[Any],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
) -> list[Any]:
    mode = ctx.text("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        listed = ctx.attrs.get("pads") if mode == "NOTSET" else None
        return [int(p) for p in listed or [0] * 2 * len(kernel)][: len(kernel)]
    pads = []
    for n, out, k, s, d in zip(size, result, kernel, strides, dilations):
        total = tirx.max((out - 1) * s + (k - 1) * d + 1 - n, 0)
        pads.append(tirx.floordiv(total + (mode == "SAME_LOWER"), 2))
    return pads


def max_unpool(ctx: NodeContext) -> relax.Expr:
    """MaxUnpool, into the shape that the pooling had or a larger one."""
    x, indices = ctx.input(0), ctx.input(1)
    shape = dims(x)
    kernel = [int(k) for k in ctx.attrs["kernel_shape"]]
    rank = len(kernel)
    strides = [int(s) for s in ctx.attrs.get("strides") or [1] * rank]
    pads = [int(p) for p in ctx.attrs.get("pads") or [0] * 2 * rank]
    inferred = [*shape[:2]]
    for d in range(rank):
        inferred.append((shape[2 + d] - 1) * strides[d] - pads[d] - pads[rank + d] + kernel[d])
    count, total = product(shape), product(inferred)
    flat = [ctx.bb.emit(relax.op.reshape(v, relax.ShapeExpr([count]))) for v in (x, indices)]
    gvar = ctx.bb.add_func(_scatter(count, total, dtype(x)), "max_unpool")
    call = relax.call_tir(gvar, flat, relax.TensorType([total], dtype(x)))
    placed = ctx.bb.emit(relax.op.reshape(ctx.bb.emit(call), relax.ShapeExpr(inferred)))
    if not ctx.has(2):
        return placed
    wanted = ctx.sizes(2)

    def compute(x: te.Tensor, wanted: list[Any]) -> te.Tensor:
        def element(*i: Any) -> Any:
            inside = tirx.all(*(at < size for at, size in zip(i, x.shape)))
            return tirx.if_then_else(inside, x(*i), tirx.const(0, str(x.dtype)))

        return te.compute(wanted, element, name="unpooled")

    return ctx.emit_te(compute, placed, wanted)


def _scatter(count: Any, total: Any, kind: str) -> tirx.PrimFunc:
    @T.prim_func(private=True)
    def scatter(
        x: T.Buffer((count,), kind),
        indices: T.Buffer((count,), "int64"),
        y: T.Buffer((total,), kind),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for i in range(total):
            y[i] = T.Cast(kind, 0)
        for i in range(count):
            if T.And(indices[i] >= T.int64(0), indices[i] < total):
                y[indices[i]] = x[i]

    return scatter


def roi_align(ctx: NodeContext) -> relax.Expr:
    """RoiAlign; the maximum is taken over the weighted corners, as ONNX's reference does."""
    if ctx.text("mode", "avg") == "avg":
        return convert_with_tvm(ctx)
    x, rois, batches = ctx.input(0), ctx.input(1), ctx.input(2)
    if dtype(x) != "float32":
        raise ValueError("mode `max` is supported for float32 only")
    size = (int(ctx.attrs.get("output_height", 1)), int(ctx.attrs.get("output_width", 1)))
    half = ctx.text("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    func = _largest_corners(
        (*dims(x), dims(rois)[0]),
        size,
        float(ctx.attrs.get("spatial_scale", 1.0)),
        int(ctx.attrs.get("sampling_ratio", 0)),
        half,
    )
    gvar = ctx.bb.add_func(func, "roi_align_max")
    batches = ctx.bb.emit(relax.op.astype(batches, "int64"))
    result = relax.TensorType([dims(rois)[0], dims(x)[1], *size], "float32")
    return ctx.bb.emit(relax.call_tir(gvar, [x, rois, batches], result))


def _largest_corners(
    shape: tuple[Any, ...], out: tuple[int, int], scale: float, ratio: int, half: bool
) -> tirx.PrimFunc:
    batch, channels, height, width, count = shape
    rows, columns = out
    shift = 0.5 if half else 0.0
    least = -3.0e38 if half else 1.0

    @T.prim_func(private=True)
    def align(
        x: T.Buffer((batch, channels, height, width), "float32"),
        rois: T.Buffer((count, 4), "float32"),
        batches: T.Buffer((count,), "int64"),
        y: T.Buffer((count, channels, rows, columns), "float32"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        start = T.alloc_buffer((2,), "float32")
        extent = T.alloc_buffer((2,), "float32")
        steps = T.alloc_buffer((2,), "int64")
        at = T.alloc_buffer((2,), "float32")
        low = T.alloc_buffer((2,), "int64")
        high = T.alloc_buffer((2,), "int64")
        best = T.alloc_buffer((1,), "float32")
        is_first = T.alloc_buffer((1,), "int32")
        outside = T.alloc_buffer((1,), "int32")
        value = T.alloc_buffer((1,), "float32")
        for n in range(count):
            start[0] = rois[n, 1] * T.float32(scale) - T.float32(shift)
            start[1] = rois[n, 0] * T.float32(scale) - T.float32(shift)
            extent[0] = T.max(
                rois[n, 3] * T.float32(scale) - T.float32(shift) - start[0], T.float32(least)
            ) / T.float32(rows)
            extent[1] = T.max(
                rois[n, 2] * T.float32(scale) - T.float32(shift) - start[1], T.float32(least)
            ) / T.float32(columns)
            for d in range(2):
                steps[d] = T.int64(ratio)
                if ratio <= 0:
                    steps[d] = T.Cast("int64", T.ceil(extent[d]))
            for c in range(channels):
                for i in range(rows):
                    for j in range(columns):
                        best[0] = T.float32(0)
                        is_first[0] = 1
                        for p in range(steps[0]):
                            for q in range(steps[1]):
                                at[0] = (
                                    start[0]
                                    + T.Cast("float32", i) * extent[0]
                                    + (T.Cast("float32", p) + T.float32(0.5))
                                    * extent[0]
                                    / T.Cast("float32", steps[0])
                                )
                                at[1] = (
                                    start[1]
                                    + T.Cast("float32", j) * extent[1]
                                    + (T.Cast("float32", q) + T.float32(0.5))
                                    * extent[1]
                                    / T.Cast("float32", steps[1])
                                )
                                outside[0] = T.Cast("int32", _is_outside(at, height, width))
                                for d in range(2):
                                    at[d] = T.max(at[d], T.float32(0))
                                    low[d] = T.Cast("int64", at[d])
                                    last = T.meta_var(tirx.Select(d < 1, height - 1, width - 1))
                                    high[d] = low[d] + T.int64(1)
                                    if low[d] >= last:
                                        low[d] = last
                                        high[d] = last
                                        at[d] = T.Cast("float32", last)
                                value[0] = T.Select(
                                    outside[0] > 0,
                                    T.float32(0),
                                    _corner(x, batches[n], c, low, high, at),
                                )
                                if is_first[0] > 0:
                                    best[0] = value[0]
                                else:
                                    best[0] = T.max(best[0], value[0])
                                is_first[0] = 0
                        y[n, c, i, j] = best[0]

    return align


def _is_outside(at: Any, height: Any, width: Any) -> Any:
    return tirx.any(
        at[0] < -1.0,
        at[0] > height.astype("float32"),
        at[1] < -1.0,
        at[1] > width.astype("float32"),
    )


def _corner(x: Any, n: Any, c: Any, low: Any, high: Any, at: Any) -> Any:
    one = tirx.const(1.0, "float32")
    down, right = at[0] - low[0].astype("float32"), at[1] - low[1].astype("float32")
    corners = [
        x[n, c, low[0], low[1]] * (one - down) * (one - right),
        x[n, c, low[0], high[1]] * (one - down) * right,
        x[n, c, high[0], low[1]] * down * (one - right),
        x[n, c, high[0], high[1]] * down * right,
    ]
    return tirx.max(tirx.max(corners[0], corners[1]), tirx.max(corners[2], corners[3]))


CONVERTERS: dict[str, Converter] = {
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
    "RoiAlign": roi_align,
}
