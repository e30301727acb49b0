"""AffineGrid, Col2Im and DeformConv: sums over positions that are computed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from relaxc.frontend.operators.base import Converter, NodeContext, dims, dtype
from relaxc.frontend.operators.vectors import product


def affine_grid(ctx: NodeContext) -> relax.Expr:
    """AffineGrid over two or three spatial dimensions of any size."""
    size = ctx.sizes(1)
    spatial = len(size) - 2
    is_aligned, kind = bool(ctx.attrs.get("align_corners", 0)), dtype(ctx.input(0))

    def compute(theta: te.Tensor, size: list[Any]) -> te.Tensor:
        def at(i: Any, extent: Any) -> Any:
            two, one = tirx.const(2, kind), tirx.const(1, kind)
            if is_aligned:
                return two * i.astype(kind) / tirx.max(extent - 1, 1).astype(kind) - one
            return (two * i.astype(kind) + one) / extent.astype(kind) - one

        def element(*i: Any) -> Any:
            n, *where, row = i
            # The last dimension of the grid counts x first, the image's dimensions end with it.
            points = [at(k, extent) for k, extent in zip(where, size[2:])][::-1]
            terms = [theta(n, row, k) * point for k, point in enumerate(points)]
            return functools.reduce(lambda a, b: a + b, terms) + theta(n, row, spatial)

        return te.compute((size[0], *size[2:], spatial), element, name="affine_grid")

    return ctx.emit_te(compute, ctx.input(0), size)


def _listed(ctx: NodeContext, name: str, default: int, count: int) -> list[int]:
    return [int(v) for v in ctx.attrs.get(name) or [default] * count]


def col2im(ctx: NodeContext) -> relax.Expr:
    """Col2Im: overlapping blocks are added up."""
    image, block = ctx.sizes(1), ctx.sizes(2)
    rank = len(image)
    dilations, strides = _listed(ctx, "dilations", 1, rank), _listed(ctx, "strides", 1, rank)
    pads = _listed(ctx, "pads", 0, 2 * rank)

    def compute(x: te.Tensor, image: list[Any], block: list[Any]) -> te.Tensor:
        counts = []
        for d in range(rank):
            room = image[d] + pads[d] + pads[rank + d] - dilations[d] * (block[d] - 1) - 1
            counts.append(tirx.floordiv(room, strides[d]) + 1)
        taps = [te.reduce_axis((0, size), name=f"k{d}") for d, size in enumerate(block)]
        area = product(block)

        def element(n: Any, c: Any, *where: Any) -> Any:
            tap: Any = tirx.IntImm("int64", 0)
            column: Any = tirx.IntImm("int64", 0)
            inside = []
            for d, at in enumerate(where):
                offset = at + pads[d] - taps[d].var * dilations[d]
                step = tirx.floordiv(offset, strides[d])
                inside += [offset >= 0, tirx.floormod(offset, strides[d]) == 0, step < counts[d]]
                tap = tap * block[d] + taps[d].var
                column = column * counts[d] + step
            zero = tirx.const(0, str(x.dtype))
            value = tirx.if_then_else(tirx.all(*inside), x(n, c * area + tap, column), zero)
            return te.sum(value, axis=taps)

        shape = (x.shape[0], tirx.floordiv(x.shape[1], area), *image)
        return te.compute(shape, element, name="col2im")

    return ctx.emit_te(compute, ctx.input(0), image, block)


def deform_conv(ctx: NodeContext) -> relax.Expr:
    """DeformConv over two spatial dimensions, with groups, mask and bias."""
    x, weight = ctx.input(0), ctx.input(1)
    if len(dims(x)) != 4:
        raise ValueError("only two spatial dimensions are supported")
    kernel = dims(weight)[2:]
    strides, dilations = _listed(ctx, "strides", 1, 2), _listed(ctx, "dilations", 1, 2)
    pads, groups = _listed(ctx, "pads", 0, 4), int(ctx.attrs.get("group", 1))
    offset_groups = int(ctx.attrs.get("offset_group", 1))
    has_bias, has_mask = ctx.has(3), ctx.has(4)
    more = [ctx.input(i) for i in (3, 4) if ctx.has(i)]

    def compute(x: te.Tensor, w: te.Tensor, offset: te.Tensor, *more: te.Tensor) -> te.Tensor:
        mask, bias = more[-1] if has_mask else None, more[0] if has_bias else None
        channels, height, width = x.shape[1:]
        kh, kw = kernel
        per_group = w.shape[1]
        c = te.reduce_axis((0, per_group), name="c")
        ky, kx = te.reduce_axis((0, kh), name="ky"), te.reduce_axis((0, kw), name="kx")
        kind = str(x.dtype)

        def element(n: Any, o: Any, i: Any, j: Any) -> Any:
            group = tirx.floordiv(o, tirx.floordiv(w.shape[0], groups))
            channel = group * per_group + c.var
            share = tirx.floordiv(channel, tirx.floordiv(channels, offset_groups))
            tap = (share * kh + ky.var) * kw + kx.var
            y = (i * strides[0] - pads[0] + ky.var * dilations[0]).astype(kind)
            z = (j * strides[1] - pads[1] + kx.var * dilations[1]).astype(kind)
            y, z = y + offset(n, tap * 2, i, j), z + offset(n, tap * 2 + 1, i, j)
            value = _bilinear(lambda a, b: x(n, channel, a, b), (height, width), (y, z), kind)
            if mask is not None:
                value = value * mask(n, tap, i, j)
            return te.sum(value * w(o, c.var, ky.var, kx.var), axis=[c, ky, kx])

        shape = (x.shape[0], w.shape[0], *offset.shape[2:])
        result = te.compute(shape, element, name="deform_conv")
        if bias is None:
            return result
        return te.compute(shape, lambda n, o, i, j: result(n, o, i, j) + bias(o), name="biased")

    return ctx.emit_te(compute, x, weight, ctx.input(2), *more)


def _bilinear(load: Any, size: Sequence[Any], at: tuple[Any, Any], kind: str) -> Any:
    """The value between four pixels; outside of the image they are 0."""
    total: Any = tirx.const(0, kind)
    low = [tirx.floor(v) for v in at]
    for dy in (0, 1):
        for dx in (0, 1):
            whole = [v.astype("int64") + d for v, d in zip(low, (dy, dx))]
            shares = [
                (v - f) if d else (tirx.const(1, kind) - (v - f))
                for v, f, d in zip(at, low, (dy, dx))
            ]
            inside = tirx.all(*(tirx.all(w >= 0, w < s) for w, s in zip(whole, size)))
            pixel = tirx.if_then_else(inside, load(*whole), tirx.const(0, kind))
            total = total + pixel * shares[0] * shares[1]
    return total


def space_to_depth(ctx: NodeContext) -> relax.Expr:
    """SpaceToDepth: the pixels of a block become channels, before the old ones or within them."""
    data, size = ctx.input(0), int(ctx.attrs["blocksize"])
    if size < 1 or len(dims(data)) != 4:
        raise ValueError("it takes images in blocks of at least one pixel")
    is_outer = ctx.text("mode", "DCR") == "DCR"

    def compute(x: te.Tensor) -> te.Tensor:
        count, channels, height, width = x.shape
        pixels = size * size

        def element(n: Any, c: Any, i: Any, j: Any) -> Any:
            pixel = tirx.floordiv(c, channels) if is_outer else tirx.floormod(c, pixels)
            channel = tirx.floormod(c, channels) if is_outer else tirx.floordiv(c, pixels)
            down, right = tirx.floordiv(pixel, size), tirx.floormod(pixel, size)
            return x(n, channel, i * size + down, j * size + right)

        shape = (count, channels * pixels, height // size, width // size)
        return te.compute(shape, element, name="space_to_depth")

    return ctx.emit_te(compute, data)


CONVERTERS: dict[str, Converter] = {
    "AffineGrid": affine_grid,
    "Col2Im": col2im,
    "DeformConv": deform_conv,
    "SpaceToDepth": space_to_depth,
}
