"""A tensor as kernels address it: pixels of vector-wide channel blocks, whatever the layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relaxc.layout import Layout
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder


@dataclass(frozen=True)
class View:
    """A logical (n, c, h, w) tensor in memory.

    The element (n, c, h, w) lies at
    `n * image + (c // block) * plane + h * row + w * pixel + c % block + origin`, where for plain
    tensors `block` is 1 and for channels-last `plane` is the vector width.
    """

    buffer: Buffer
    channels: int
    height: int
    width: int
    block: int
    image: int
    plane: int
    row: int
    pixel: int
    origin: Index
    layout: Layout

    @staticmethod
    def of(
        buffer: Buffer,
        dims: tuple[Any, ...],
        layout: Layout,
        lanes: int,
        first_channel: Index | None = None,
    ) -> View:
        """View a buffer of logical dims (n, c, h, w); n may be symbolic, the others not.

        `first_channel` replaces a slice's offset, for kernels that get it as a parameter.
        """
        _, c, h, w = dims
        top, left, bottom, right = layout.border
        rows, columns = h + top + bottom, w + left + right
        total, first = (c, 0) if layout.slice is None else (layout.slice.total, layout.slice.offset)
        if first_channel is not None:
            first = first_channel
        if layout.kind == "blocked":
            block, pixel = layout.block, layout.block
            row, plane = columns * pixel, rows * columns * pixel
            image = -(-total // block) * plane
        elif layout.kind == "last":
            block, plane, pixel = lanes, lanes, total
            row, image = columns * total, rows * columns * total
        else:
            block, pixel, row, plane = 1, 1, columns, rows * columns
            image = total * plane
        image = layout.pitch or image
        origin = top * row + left * pixel + first // block * plane
        return View(buffer, c, h, w, block, image, plane, row, pixel, origin, layout)

    @property
    def blocks(self) -> int:
        """Number of channel blocks."""
        return -(-self.channels // self.block)

    def at(self, n: Index, cb: Index, h: Index, w: Index) -> Expr:
        """Index of the first channel of block `cb` at a pixel; borders have negative h or w."""
        return n * self.image + cb * self.plane + h * self.row + w * self.pixel + self.origin

    def lane(self, n: Index, cb: Index, lane: Index, lanes: int, h: Index, w: Index) -> Expr:
        """Index of channel `cb * lanes + lane`, for a vector width of `lanes`."""
        if self.block == 1:
            return self.at(n, cb * lanes + lane, h, w)
        return self.at(n, cb, h, w) + lane

    def zero_row_border(self, b: KernelBuilder, n: Index, cb: Index, h: Index) -> None:
        """Write the border beside row `h`; above and below the map at its first and last row."""
        top, left, bottom, right = self.layout.border
        if not any(self.layout.border):
            return
        zero = b.splat(0.0, self.block)
        for w in (*range(-left, 0), *range(self.width, self.width + right)):
            b.store(self.buffer, self.at(n, cb, h, w), zero, self.block)
        columns = left + self.width + right
        for condition, first, count in (
            (h < 1, -top, top),
            (h >= self.height - 1, self.height, bottom),
        ):
            if count:
                with b.when(condition), b.loop(count) as i, b.loop(columns) as w:
                    b.store(self.buffer, self.at(n, cb, i + first, w - left), zero, self.block)

    def zero_borders(self, b: KernelBuilder, n: Index, cb: Index) -> None:
        """Write the border of one channel block of one image."""
        top, left, bottom, right = self.layout.border
        if not any(self.layout.border):
            return
        zero = b.splat(0.0, self.block)
        columns = self.width + left + right

        def fill(h: Index, first: int, count: int) -> None:
            if count:
                with b.loop(count) as i:
                    b.store(self.buffer, self.at(n, cb, h, first + i), zero, self.block)

        with b.loop(top) as h:
            fill(h - top, -left, columns)
        with b.loop(bottom) as h:
            fill(h + self.height, -left, columns)
        if left + right:
            with b.loop(self.height) as h:
                fill(h, -left, left)
                fill(h, self.width, right)
