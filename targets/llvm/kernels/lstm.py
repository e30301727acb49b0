"""The recurrence of an LSTM: gates of a block of units together, states never leave the caches.

Per step and block of units the four gates accumulate in registers over the previous hidden state,
starting from the projected input; cell and hidden state follow at once. Directions and sequences
are independent and shared among threads. Bound by reading the recurrent weights once per step:
a few sequences of a batch are computed together, by weights that are read, and taken apart, once.

Units that do not fill the last vectors are padded in the packed weights and in the states: sums of
nothing, which are neither read from tensors nor written to them.

Weights that would fill the L2 cache are stored in 24 bits: integers times a scale per column, with
an error of at most 2**-24 of the column's largest weight, which is what float32 has for that one.
Four vectors take the room of three, and are taken apart in registers:

    lane of vector 0, 1, 2   24 bits of its own, and below them 8 bits of vector 3's. They are read
                             as one integer of 32 bits: packing rounds with them in place.
    lane of vector 3         the three times 8 bits, from the top
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import (
    Buffer,
    Expr,
    Index,
    KernelBuilder,
    even_tiles,
    vector,
)

# Elements ahead in the packed weights: a row of sixteen vectors.
PREFETCH = 2048


@dataclass(frozen=True)
class LstmSpec:
    """Sizes of a recurrence.

    Attributes:
        steps, batch: may be symbolic.
        directions: 1 or 2; the second runs backward.
        hidden: units.
        backward: whether a single direction runs backward.
        is_narrow: whether recurrent weights are stored in 24 bits.
        rows: sequences that are computed together, at most.
        sums: vectors of sums at a time, for which there are registers.
    """

    steps: Any
    batch: Any
    directions: int
    hidden: int
    backward: bool
    is_narrow: bool = False
    rows: int = 1
    sums: int = 16

    def blocks(self, lanes: int) -> int:
        """Vectors of units whose gates, of all rows, are summed up at a time."""
        most = max(1, self.sums // (4 * self.rows))
        return next(n for n in (4, 2, 1) if n <= min(most, unit_blocks(self.hidden, lanes)))

    def panel(self, width: int) -> int:
        """Elements of packed weights for `width` units."""
        return 4 * width + self.hidden * 3 * width if self.is_narrow else self.hidden * 4 * width


def unit_blocks(hidden: int, lanes: int) -> int:
    """Vectors of units whose gates are computed together: four gates each, sixteen registers."""
    blocks = padded(hidden, lanes) // lanes
    return max(count for count in (1, 2, 4) if blocks % count == 0)


def padded(hidden: int, lanes: int) -> int:
    """Units in whole vectors; in pairs of them, so that there are sums enough to add to in turn."""
    blocks = -(-hidden // lanes)
    return (blocks if blocks == 1 or hidden % lanes == 0 else blocks + blocks % 2) * lanes


def pack_weights(recurrent: np.ndarray, spec: LstmSpec, lanes: int) -> np.ndarray:
    """[direction, 4 * hidden, hidden] -> [direction][group][k][gate][unit in group].

    In 24 bits: [direction][group], each the scales [gate][unit], then [k][four vectors][3][lane].
    """
    width = spec.blocks(lanes) * lanes
    d, k, h = spec.directions, spec.hidden, padded(spec.hidden, lanes)
    gates = np.zeros((d, 4, h, k), np.float32)
    gates[:, :, :k] = recurrent.reshape(d, 4, k, k)
    panels = gates.reshape(d, 4, h // width, width, k).transpose(0, 2, 4, 1, 3)
    panels = np.ascontiguousarray(panels, np.float32).reshape(d, h // width, k, 4 * width)
    if not spec.is_narrow:
        return panels
    largest = np.abs(panels).max(axis=2, keepdims=True).astype(np.float64)
    scale = (np.maximum(largest, 1e-20) / (2**31 - 256)).astype(np.float32)
    integers = np.rint(panels / scale.astype(np.float64)).astype(np.int64)
    quads = integers.reshape(d, h // width, k, -1, 4, lanes)
    limit = 2**23 - 1
    last = np.clip(quads[..., 3, :] + 128 >> 8, -limit, limit)
    low = np.stack([last >> shift & 255 for shift in (16, 8, 0)], axis=-2)
    high = (quads[..., :3, :] - low + 128 >> 8 << 8) + low
    rows = np.clip(high, -(2**31), 2**31 - 1).astype(np.int32).reshape(d, h // width, -1)
    return np.concatenate([scale.reshape(d, h // width, -1).view(np.int32), rows], axis=-1)


@dataclass(frozen=True)
class LstmBuffers:
    """The parameters of the kernel, in order."""

    gates: Buffer
    weight: Buffer
    hidden0: Buffer
    cell0: Buffer
    outputs: Buffer
    hidden: Buffer
    cell: Buffer


def emit(b: KernelBuilder, spec: LstmSpec, p: LstmBuffers) -> None:
    """Write the kernel."""
    tiles = even_tiles(spec.batch, spec.rows) if spec.rows > 1 else [(0, 1, spec.batch)]
    for start, rows, count in tiles:
        with b.parallel(spec.directions * count) as task:
            n = b.let(task % count * rows + start)
            _sequences(b, spec, p, b.let(task // count), n, rows)


def _sequences(
    b: KernelBuilder, spec: LstmSpec, p: LstmBuffers, d: Index, n: Index, rows: int
) -> None:
    """All steps of `rows` sequences from `n` on, in one direction."""
    h, lanes = spec.hidden, b.lanes
    # States of the step before and of this one, in whole vectors. They change roles every step.
    pitch = padded(spec.hidden, lanes)
    states = rows * pitch
    memory = b.workspace(2 * states)

    def each(move: Callable[[Index, Index, int], None]) -> None:
        """Call `move(position in a tensor, in memory, count)` for vectors of all states."""
        with b.loop(rows) as r:
            tensor, own = b.let((d * spec.batch + n + r) * h), b.let(r * pitch)
            with b.loop(h // lanes) as u:
                move(tensor + u * lanes, own + u * lanes, lanes)
            if h % lanes:
                move(tensor + h // lanes * lanes, own + h // lanes * lanes, h % lanes)

    def begin(tensor: Index, own: Index, count: int) -> None:
        b.store(memory, own, b.load_partial(p.hidden0, tensor, count))
        b.store_partial(p.cell, tensor, b.load_partial(p.cell0, tensor, count), count)

    each(begin)
    with b.loop(spec.steps) as s:
        position = b.let(_position(spec, d, s))
        before, after = b.let(s % 2 * states), b.let((s + 1) % 2 * states)
        _step(b, spec, p, memory, before, after, d, n, rows, position, s)
    last = b.let(spec.steps % 2 * states)

    def end(tensor: Index, own: Index, count: int) -> None:
        b.store_partial(p.hidden, tensor, b.load(memory, last + own), count)

    each(end)


def _position(spec: LstmSpec, d: Index, s: Index) -> Expr:
    if spec.directions == 1:
        return spec.steps - 1 - s if spec.backward else s
    return s + d * (spec.steps - 1 - 2 * s)


def _step(
    b: KernelBuilder,
    spec: LstmSpec,
    p: LstmBuffers,
    memory: Buffer,
    before: Index,
    after: Index,
    d: Index,
    n: Index,
    rows: int,
    position: Index,
    step: Index,
) -> None:
    """All units of some sequences, one step."""
    h, lanes, blocks = spec.hidden, b.lanes, spec.blocks(b.lanes)
    width = blocks * lanes
    pitch = padded(spec.hidden, lanes)
    gates = b.let((position * spec.batch + n) * (spec.directions * 4 * h) + d * (4 * h))
    cells = b.let((d * spec.batch + n) * h)
    outputs = b.let(((position * spec.directions + d) * spec.batch + n) * h)
    panels = b.let(d * (pitch // width))
    groups = -(-h // width)
    # Of the vectors of a group, how many units there are; fewer in the last one.
    counts = [lanes] * blocks
    last = [min(lanes, max(0, h - (groups - 1) * width - v * lanes)) for v in range(blocks)]

    def write(group: Index, counts: list[int]) -> None:
        unit = b.let(group * width)
        panel = b.let((panels + group) * spec.panel(width))
        inputs = []
        for r in range(rows):
            at = b.let(gates + r * (spec.directions * 4 * h) + unit)
            inputs.append(
                [(at + gate * h + v * lanes, counts[v]) for gate in range(4) for v in range(blocks)]
            )
        emit_sums = _narrow_sums if spec.is_narrow else _sums
        sums = emit_sums(
            b, spec, p, memory, [before + r * pitch for r in range(rows)], panel, inputs
        )
        for (r, row), (v, count) in itertools.product(enumerate(sums), enumerate(counts)):
            if not count:
                continue
            at = unit + (r * h + v * lanes)
            i, o, f, g = (row[gate * blocks + v] for gate in range(4))
            cell = b.load_partial(p.cell, cells + at, count)
            cell = b.let(vm.sigmoid(f) * cell + vm.sigmoid(i) * vm.tanh(g))
            hidden = b.let(vm.sigmoid(o) * vm.tanh(cell))
            b.store_partial(p.cell, cells + at, cell, count)
            b.store(memory, after + (unit + (r * pitch + v * lanes)), hidden)
            b.store_partial(p.outputs, outputs + at, hidden, count)

    with b.loop(groups) as i:
        # To and fro: weights just above the size of a cache would miss it always, read in a circle.
        group = b.let(i + step % 2 * (groups - 1 - 2 * i))
        if last == counts:
            write(group, counts)
            return
        with b.when(group < groups - 1 if groups > 1 else None):
            if groups > 1:
                write(group, counts)
        with b.when(group >= groups - 1 if groups > 1 else None):
            write(group, last)


def _input(b: KernelBuilder, p: LstmBuffers, at: Index, count: int) -> Expr:
    """A vector of projected input, of so many units."""
    return b.load_partial(p.gates, at, count) if count else b.splat(0.0)


def _sums(
    b: KernelBuilder,
    spec: LstmSpec,
    p: LstmBuffers,
    memory: Buffer,
    sources: list[Index],
    panel: Index,
    inputs: list[list[tuple[Index, int]]],
) -> list[list[Expr]]:
    """For each row, vectors of projected input at `inputs`, plus the panel times the state."""
    acc = [[b.register() for _ in row] for row in inputs]
    for register, (at, count) in zip(itertools.chain(*acc), itertools.chain(*inputs)):
        register.set(_input(b, p, at, count))
    with b.loop(spec.hidden) as k:
        values = [b.let(b.broadcast(memory, source + k)) for source in sources]
        start = b.let(panel + k * (len(inputs[0]) * b.lanes))
        for i, (_, count) in enumerate(inputs[0]):
            if not count:
                continue
            at = start + i * b.lanes
            b.prefetch(p.weight, at + PREFETCH, 3)
            weight = b.let(b.load(p.weight, at))
            for row, value in zip(acc, values):
                row[i].set(row[i].get() + value * weight)
    return [[b.let(register.get()) for register in row] for row in acc]


def _narrow_sums(
    b: KernelBuilder,
    spec: LstmSpec,
    p: LstmBuffers,
    memory: Buffer,
    sources: list[Index],
    panel: Index,
    inputs: list[list[tuple[Index, int]]],
) -> list[list[Expr]]:
    """`_sums` of weights in 24 bits."""
    lanes, count = b.lanes, len(inputs[0])
    acc = [[b.register() for _ in row] for row in inputs]
    for register in itertools.chain(*acc):
        register.set(b.splat(0.0))
    rows = b.let(panel + count * lanes)
    with b.loop(spec.hidden) as k:
        values = [b.let(b.broadcast(memory, source + k)) for source in sources]
        start = b.let(rows + k * (count * 3 // 4 * lanes))
        for quad in range(count // 4):
            parts = [b.let(b.load(p.weight, start + (3 * quad + j) * lanes)) for j in range(3)]
            last = tirx.shift_left(parts[0], b.splat(24, dtype="int32"))
            for part, mask, shift in ((parts[1], 0xFF0000, 16), (parts[2], 0xFF00, 8)):
                moved = tirx.shift_left(part, b.splat(shift, dtype="int32"))
                last = last | (moved & b.splat(mask, dtype="int32"))
            for j, integers in enumerate((*parts, b.let(last))):
                weight = b.let(tirx.Cast(vector("float32", lanes), integers))
                for row, value in zip(acc, values):
                    register = row[4 * quad + j]
                    register.set(register.get() + value * weight)
    scales = []
    for i in range(count):
        bits = b.load(p.weight, panel + i * lanes)
        scales.append(b.let(tirx.reinterpret(vector("float32", lanes), bits)))
    return [
        [
            b.let(_input(b, p, at, units) + register.get() * scale)
            for register, (at, units), scale in zip(row, starts, scales)
        ]
        for row, starts in zip(acc, inputs)
    ]
