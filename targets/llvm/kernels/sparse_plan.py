"""How sparse weights are multiplied, and how long that takes beside multiplying all of them.

Costs are cycles of one core per pixel and block (a vector of outputs times one input). They need to
be right about which way is faster, not about how long it takes; `benchmarks/sparse_kernels.py`
holds them against measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.view import View
from relaxc.targets.llvm.machine import Machine

# A dense kernel's multiply-add of a vector, two a cycle, at nine tenths of the peak.
_DENSE = 0.55
# What kernels need beyond their loads: measured by estimated times.
_SPARSE, _SCATTERED = 1.08, 1.25
# What transforms of data add to Winograd's products, and cycles to transform a block of weights.
_TRANSFORMS, _WEIGHT_TRANSFORM = 1.2, 8.0
# Applying an epilogue to a vector and storing it, either way.
_STORE = 2.0
# Blocks of weights that are needed at once: bytes per cycle, from the caches and from memory.
_FROM_L2, _FROM_L3, _FROM_MEMORY = 48, 24, 10
_L3_BYTES = 16 << 20
# Per list of scattered weights: beginning and ending it, loading and storing a vector of totals.
_LIST, _TOTALS = 8.0, 1.5
# Per element of the data and of the result, on the way from pixels to vectors of them and back.
_TRANSPOSE = 0.3


@dataclass(frozen=True)
class Window:
    """Which pixels of the data a pixel of the result reads.

    Attributes:
        batch, height, width: of the result; batch and width may be symbolic.
        kernel, stride, dilation: (height, width).
        start: where the first pixel of the result begins to read.
    """

    batch: Any
    height: int
    width: Any
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    start: tuple[int, int] = (0, 0)

    @staticmethod
    def of(spec: ConvSpec) -> Window:
        """A convolution's."""
        top, left = spec.padding[:2]
        size = (spec.batch, spec.out_height, spec.out_width)
        return Window(*size, spec.kernel, spec.stride, spec.dilation, (-top, -left))

    def offset(self, x: View, channel: int, i: int, j: int) -> int:
        """Where a tap lies in the data, relative to the first channel of the first tap."""
        at = channel // x.block * x.plane + channel % x.block
        # Of a matrix with a symbolic number of rows, the strides that are not needed are symbolic.
        at += i * self.dilation[0] * x.row if i else 0
        return at + (j * self.dilation[1] * x.pixel if j else 0)

    def pixels(self) -> int:
        """Of the result, as far as they are known."""
        return self.height * (self.width if isinstance(self.width, int) else 1)


@dataclass(frozen=True)
class SparseTile:
    """How a sparse product is cut.

    Attributes:
        rows, columns: pixels of a register tile.
        parts: shares of the outputs that are computed apart.
        chains: independent sums per pixel, which hide the latency of adds.
    """

    rows: int
    columns: int
    parts: int
    chains: int = 1

    @property
    def pixels(self) -> int:
        """All of them."""
        return self.rows * self.columns


def choose_tile(
    window: Window, depth: int, vectors: int, machine: Machine, pixel: int | None = None
) -> SparseTile:
    """The tile with the least estimated cycles.

    Args:
        window: of the product.
        depth: channels of the data.
        vectors: of outputs.
        machine: the CPU.
        pixel: elements from one pixel of the data to the next; a vector if not known.
    """
    most = machine.registers - 4
    if not isinstance(window.width, int):
        # A single row, too, gets four chains: that is what such models mostly run on.
        return SparseTile(1, most // 4, min(vectors, 8), 4)
    tiles = {
        _tile(window, most, rows, columns)
        for columns in range(1, most + 1)
        for rows in range(1, min(most // columns, 4) + 1)
    }
    at = pixel or machine.lanes
    tile = min(tiles, key=lambda t: (_cycles(window, t, depth, at, machine), -t.columns, t.rows))
    # No core waits longer than a sixteenth of the time for the others.
    batch = window.batch if isinstance(window.batch, int) else 1
    tasks = batch * -(-window.height // tile.rows) * -(-window.width // tile.columns)
    parts, cores = 1, machine.cores
    while parts < min(16, vectors) and -(-tasks * parts // cores) * cores > 17 / 16 * tasks * parts:
        parts += 1
    return SparseTile(tile.rows, tile.columns, parts, tile.chains)


def _tile(window: Window, most: int, rows: int, columns: int) -> SparseTile:
    """The tile of this size, or of the size that cuts the map into as many, but evenly."""
    columns = -(-window.width // -(-window.width // columns))
    rows = -(-window.height // -(-window.height // rows))
    return SparseTile(
        rows, columns, 1, max(1, min(8 // (rows * columns), most // (rows * columns)))
    )


def _cycles(window: Window, tile: SparseTile, depth: int, pixel: int, machine: Machine) -> float:
    """Per pixel and block, as if weights were in the second cache."""
    # Two loads a cycle: of the pixels, of weights and of where they belong.
    per_tile = max((tile.pixels + 2) / 2, 4 / tile.chains)
    if not isinstance(window.width, int):
        return _SPARSE * per_tile / tile.pixels
    down, across = -(-window.height // tile.rows), -(-window.width // tile.columns)
    computed = down * across * tile.pixels / window.pixels()
    # Data of a tile, which every vector of outputs reads again, beside the weights.
    (sh, sw), (kh, kw) = window.stride, window.kernel
    high = (tile.rows - 1) * min(sh, kh) + kh
    wide = (tile.columns - 1) * min(sw, kw) + kw
    held = high * wide * depth * 4 / machine.l1_bytes
    slower = 1 + 0.2 * min(held, 3)
    # Pixels at a large power of two from each other share sets of the cache.
    way = 4096
    sets = max(1, way // _largest_power(pixel * sw * 4, way))
    if tile.columns / sets > machine.l1_bytes // way - 4:
        slower *= 2
    return _SPARSE * computed * per_tile / tile.pixels * slower


def _largest_power(number: int, limit: int) -> int:
    """The largest power of two that divides a number, at least a cache line."""
    return min(limit, max(64, number & -number))


@dataclass(frozen=True)
class ScatteredTile:
    """How a product is cut whose weights are zero one by one.

    Attributes:
        vectors: of pixels in a tile.
        inputs: whose data are used together.
        parts: shares of the outputs that are computed apart.
        chains: independent sums per output and pixel, which hide the latency of adds.
    """

    vectors: int
    inputs: int
    parts: int
    chains: int

    def share(self, out: int, lanes: int) -> int:
        """Outputs of a part: whole vectors of them."""
        vectors = -(-out // lanes)
        return -(-vectors // self.parts) * lanes


def choose_scattered_tile(
    pixels: int | None, depth: int, out: int, left: float, machine: Machine
) -> ScatteredTile:
    """The tile with the least estimated cycles.

    Args:
        pixels: of all images, if known.
        depth: inputs.
        out: outputs.
        left: the share of weights that are not zero.
        machine: the CPU.
    """
    tiles = []
    for vectors in range(1, 9):
        limit = int(0.75 * machine.l1_bytes) // (4 * vectors * machine.lanes)
        ranges = -(-depth // limit)
        chains = max(c for c in (1, 2, 4) if c == 1 or c * vectors <= 8)
        tile = ScatteredTile(vectors, -(-depth // ranges), 1, chains)
        if pixels is not None:
            tile = replace(
                tile, parts=_parts(-(-pixels // (vectors * machine.lanes)), out, machine)
            )
        tiles.append(tile)
    return min(tiles, key=lambda t: _scattered_cycles(t, pixels, depth, out, left, machine))


def _parts(tasks: int, out: int, machine: Machine) -> int:
    """Shares of the outputs, so that cores do not wait for each other for long."""
    parts, cores, most = 1, machine.cores, min(8, -(-out // machine.lanes))
    while parts < most and -(-tasks * parts // cores) * cores > 9 / 8 * tasks * parts:
        parts += 1
    return parts


def _scattered_cycles(
    tile: ScatteredTile, pixels: int | None, depth: int, out: int, left: float, machine: Machine
) -> float:
    """Per output and vector of pixels."""
    vectors = tile.vectors
    size = vectors * machine.lanes
    # Two loads a cycle: of the data, of a weight and of its place.
    per_weight = max((vectors + 2) / 2, 4 / tile.chains) / vectors
    lists = -(-depth // tile.inputs) * (_LIST / vectors + _TOTALS)
    transposes = _TRANSPOSE * machine.lanes * (depth * tile.parts + out) / out
    computed = 1.0 if pixels is None else -(-pixels // size) * size / pixels
    return _SCATTERED * computed * (left * depth * per_weight + lists + transposes)


def relative_scattered_cost(
    pixels: int | None, depth: int, out: int, left: float, machine: Machine
) -> float:
    """Estimated time by that of the dense kernel; arguments as for `choose_scattered_tile`."""
    tile = choose_scattered_tile(pixels, depth, out, left, machine)
    cycles = _scattered_cycles(tile, pixels, depth, out, left, machine)
    # Vectors of the dense kernel are of outputs.
    filled = out / (-(-out // machine.lanes) * machine.lanes)
    return (cycles + _STORE) / (depth * _DENSE / filled + _STORE)


def relative_cost(
    window: Window,
    depth: int,
    vectors: int,
    kept: float,
    saving: float,
    machine: Machine,
    pixel: int | None = None,
) -> float:
    """Estimated time of the sparse kernel by that of the dense one.

    Args:
        window: of the product.
        depth: channels of the data.
        vectors: of outputs.
        kept: the share of blocks that are not zero.
        saving: by how much the dense kernel multiplies less than it would directly.
        machine: the CPU.
        pixel: as for `choose_tile`.
    """
    tile = choose_tile(window, depth, vectors, machine, pixel)
    inputs = depth * window.kernel[0] * window.kernel[1]
    block = 4 * machine.lanes
    total = inputs * vectors * block
    sparse = _cycles(window, tile, depth, pixel or machine.lanes, machine)
    sparse = max(sparse, _stream(kept * total, block + 4, machine) / tile.pixels)
    dense = _DENSE
    if saving > 1:
        dense = _DENSE / saving * _TRANSFORMS + _WEIGHT_TRANSFORM / window.pixels()
    # Few rows: as many as there are share a block of weights.
    rows = min(8, window.pixels()) if isinstance(window.width, int) else 8
    dense = max(dense, _stream(total, block, machine) / rows)
    return (kept * inputs * sparse + _STORE) / (inputs * dense + _STORE)


def _stream(total: float, block: int, machine: Machine) -> float:
    """Cycles until a block of weights has come from where all of them are."""
    if total < machine.l2_bytes:
        return block / _FROM_L2
    return block / (_FROM_L3 if total < _L3_BYTES else _FROM_MEMORY)
