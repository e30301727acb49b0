"""Max and average pooling, and the mean over all pixels, on channel blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tvm import relax, tirx

from relaxc.targets.llvm.kernels.builder import Expr, Index, KernelBuilder, even_tiles
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View

_LOWEST = float("-inf")
# The kernel writes every tap out; more of them than this would take minutes to compile.
_MOST_TAPS = 8192


@dataclass(frozen=True)
class PoolSpec:
    """A 2-D pooling over logical (n, c, h, w).

    Attributes:
        kind: max or average.
        batch, channels, in_height, in_width, out_height, out_width: sizes; batch may be symbolic.
        window, stride, dilation: (height, width).
        padding: top, left, bottom, right; what is padded counts only if `count_padding`.
        count_padding: whether averages divide by the whole window everywhere.
    """

    kind: Literal["max", "average"]
    batch: Any
    channels: int
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    window: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    count_padding: bool

    @staticmethod
    def of(call: relax.Call) -> PoolSpec | None:
        """The spec of a pooling call with static channels and pixels; None for others."""
        attrs = call.attrs
        data, out = call.args[0].ty, call.ty
        if str(attrs.layout) != "NCHW" or str(data.dtype.dtype) != "float32":
            return None
        if not isinstance(data.shape, relax.ShapeExpr) or not isinstance(
            out.shape, relax.ShapeExpr
        ):
            return None
        x, y = list(data.shape.values), list(out.shape.values)
        if not all(isinstance(d, tirx.IntImm) for d in (*x[1:], *y[1:])):
            return None
        padding = [int(p) for p in attrs.padding]
        is_max = "max" in str(call.op.name)
        spec = PoolSpec(
            "max" if is_max else "average",
            int(x[0]) if isinstance(x[0], tirx.IntImm) else x[0],
            int(x[1]),
            int(x[2]),
            int(x[3]),
            int(y[2]),
            int(y[3]),
            (int(attrs.pool_size[0]), int(attrs.pool_size[1])),
            (int(attrs.strides[0]), int(attrs.strides[1])),
            (int(attrs.dilation[0]), int(attrs.dilation[1])),
            (padding[0], padding[1], padding[2], padding[3]),
            bool(attrs.count_include_pad) and not is_max,
        )
        return spec if _written_taps(spec) <= _MOST_TAPS else None

    @property
    def out_dims(self) -> tuple[Any, int, int, int]:
        """Logical dims of the result."""
        return self.batch, self.channels, self.out_height, self.out_width


@dataclass(frozen=True)
class PoolTile:
    """How a map is cut.

    Attributes:
        columns: the most outputs that are computed together.
        rows_outer: whether tasks are shared out by rows first, as convolutions of big maps are: a
            core reads its own. Else by channels.
    """

    columns: int = 8
    rows_outer: bool = True


def pool_tiles(spec: PoolSpec) -> Iterator[PoolTile]:
    """All of them."""
    for columns in (1, 2, 4, 8, 14):
        if columns <= max(spec.out_width, 1):
            yield from (PoolTile(columns, True), PoolTile(columns, False))


def emit_pool(
    b: KernelBuilder, spec: PoolSpec, tile: PoolTile, x: View, y: View, operands: Operands
) -> None:
    """Write the kernel: interior columns without checks, the rest tap by tap with them."""
    with b.parallel(spec.batch * y.blocks * spec.out_height) as t:
        if tile.rows_outer:
            cb, line = b.let(t % y.blocks), b.let(t // y.blocks)
            n, h = b.let(line // spec.out_height), b.let(line % spec.out_height)
        else:
            h, line = b.let(t % spec.out_height), b.let(t // spec.out_height)
            n, cb = b.let(line // y.blocks), b.let(line % y.blocks)
        y.zero_row_border(b, n, cb, h)
        low, high = _interior(spec)
        for w in (*range(low), *range(high, spec.out_width)):
            _store(b, spec, y, operands, n, cb, h, w, _checked(b, spec, x, n, cb, h, w))
        for start, size, count in even_tiles(high - low, tile.columns) if high > low else ():
            with b.loop(count) as step:
                w = b.let(step * size + start + low)
                for i, value in enumerate(_columns(b, spec, x, n, cb, h, w, size)):
                    _store(b, spec, y, operands, n, cb, h, w + i, value)


def _interior(spec: PoolSpec) -> tuple[int, int]:
    """The range of output columns whose window lies inside of the map horizontally."""
    reach = (spec.window[1] - 1) * spec.dilation[1]
    low = -(-spec.padding[1] // spec.stride[1])
    high = (spec.in_width - 1 - reach + spec.padding[1]) // spec.stride[1] + 1
    low = min(low, spec.out_width)
    return low, max(low, min(high, spec.out_width))


def _written_taps(spec: PoolSpec) -> int:
    """How many loads the code of the kernel has."""
    low, high = _interior(spec)
    area = spec.window[0] * spec.window[1]
    return (low + spec.out_width - high) * area + (8 * area if high > low else 0)


def _neutral(b: KernelBuilder, spec: PoolSpec) -> Expr:
    return b.splat(_LOWEST if spec.kind == "max" else 0.0)


def _join(spec: PoolSpec) -> Callable[[Expr, Expr], Expr]:
    return tirx.max if spec.kind == "max" else lambda a, c: a + c


def _columns(
    b: KernelBuilder, spec: PoolSpec, x: View, n: Index, cb: Index, h: Index, w: Index, size: int
) -> list[Expr]:
    """Values of `size` neighbouring outputs: columns are reduced once and shared."""
    join, (kh, kw), (sh, sw), (dh, dw) = _join(spec), spec.window, spec.stride, spec.dilation
    first = w * sw - spec.padding[1]
    reduced: dict[int, Any] = {}
    for column in sorted({i * sw + j * dw for i in range(size) for j in range(kw)}):
        register = b.register()
        register.set(_neutral(b, spec))
        for i in range(kh):
            row = h * sh + (i * dh - spec.padding[0])
            with b.when(_row_exists(spec, i, row)):
                value = b.load(x.buffer, x.at(n, cb, row, first + column))
                register.set(join(register.get(), value))
        reduced[column] = register
    values = []
    for i in range(size):
        total = reduced[i * sw].get()
        for j in range(1, kw):
            total = join(total, reduced[i * sw + j * dw].get())
        values.append(b.let(total))
    return values


def _row_exists(spec: PoolSpec, tap: int, row: Expr) -> Expr | None:
    offset = tap * spec.dilation[0] - spec.padding[0]
    last = (spec.out_height - 1) * spec.stride[0] + offset
    conditions = ([row >= 0] if offset < 0 else []) + (
        [row < spec.in_height] if last >= spec.in_height else []
    )
    if not conditions:
        return None
    return conditions[0] if len(conditions) == 1 else tirx.And(*conditions)


def _checked(
    b: KernelBuilder, spec: PoolSpec, x: View, n: Index, cb: Index, h: Index, w: int
) -> Expr:
    register = b.register()
    register.set(_neutral(b, spec))
    for i in range(spec.window[0]):
        row = h * spec.stride[0] + (i * spec.dilation[0] - spec.padding[0])
        with b.when(_row_exists(spec, i, row)):
            for j in range(spec.window[1]):
                column = w * spec.stride[1] + j * spec.dilation[1] - spec.padding[1]
                if 0 <= column < spec.in_width:
                    value = b.load(x.buffer, x.at(n, cb, row, column))
                    register.set(_join(spec)(register.get(), value))
    return register.get()


def _store(
    b: KernelBuilder,
    spec: PoolSpec,
    y: View,
    operands: Operands,
    n: Index,
    cb: Index,
    h: Index,
    w: Index,
    value: Expr,
) -> None:
    if spec.kind == "average":
        value = value * b.splat(_reciprocal_count(spec, h, w))
    b.store(y.buffer, y.at(n, cb, h, w), operands.apply(b, value, n, cb, h, w))


def _reciprocal_count(spec: PoolSpec, h: Index, w: Index) -> float | Expr:
    """1 / (number of averaged pixels); padding counts only where the model says so."""
    kh, kw = spec.window
    # With ceil_mode a window may reach beyond the padding, which never counts.
    bottom = spec.padding[2] if spec.count_padding else 0
    right = spec.padding[3] if spec.count_padding else 0
    top = spec.padding[0] if spec.count_padding else 0
    left = spec.padding[1] if spec.count_padding else 0

    def count(at: Index, stride: int, pad: int, taps: int, low: int, high: int, outs: int) -> Index:
        first = at * stride - pad
        if -pad >= low and (outs - 1) * stride - pad + taps <= high:
            return taps
        return tirx.min(first + taps, high) - tirx.max(first, low)

    rows = count(
        h, spec.stride[0], spec.padding[0], kh, -top, spec.in_height + bottom, spec.out_height
    )
    columns = count(
        w, spec.stride[1], spec.padding[1], kw, -left, spec.in_width + right, spec.out_width
    )
    if isinstance(rows, int) and isinstance(columns, int):
        return 1.0 / (rows * columns)
    return tirx.FloatImm("float32", 1.0) / tirx.Cast("float32", rows * columns)


def emit_mean(b: KernelBuilder, x: View, y: View, batch: Any, operands: Operands) -> None:
    """The mean over all pixels, per channel."""
    chains = 4
    with b.parallel(batch * y.blocks) as t:
        n, cb = b.let(t // y.blocks), b.let(t % y.blocks)
        sums = [b.register() for _ in range(chains)]
        for register in sums:
            register.set(b.splat(0.0))
        with b.loop(x.height) as h:
            for start, size, count in even_tiles(x.width, chains):
                with b.loop(count) as tile:
                    for i in range(size):
                        at = x.at(n, cb, h, tile * size + (start + i))
                        sums[i].set(sums[i].get() + b.load(x.buffer, at))
        total = (sums[0].get() + sums[1].get()) + (sums[2].get() + sums[3].get())
        mean = total * b.splat(1.0 / (x.height * x.width))
        b.store(y.buffer, y.at(n, cb, 0, 0), operands.apply(b, mean, n, cb, 0, 0))
