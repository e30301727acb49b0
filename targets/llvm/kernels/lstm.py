"""The recurrence of an LSTM: gates of a block of units together, states never leave the caches.

Per step and block of units the four gates accumulate in registers over the previous hidden state,
starting from the projected input; cell and hidden state follow at once. Directions are independent
and run on threads of their own. Bound by reading the recurrent weights once per step.

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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, vector


@dataclass(frozen=True)
class LstmSpec:
    """Sizes of a recurrence.

    Attributes:
        steps, batch: may be symbolic.
        directions: 1 or 2; the second runs backward.
        hidden: units.
        backward: whether a single direction runs backward.
        is_narrow: whether recurrent weights are stored in 24 bits.
    """

    steps: Any
    batch: Any
    directions: int
    hidden: int
    backward: bool
    is_narrow: bool = False

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
    width = unit_blocks(spec.hidden, lanes) * lanes
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
    h, lanes = spec.hidden, b.lanes
    # States of the step before and of this one, in whole vectors.
    pitch = padded(spec.hidden, lanes)
    states = spec.batch * pitch
    with b.parallel(spec.directions) as d:
        # They change roles every step.
        memory = b.workspace(2 * states)

        def each(move: Callable[[Index, Index, int], None]) -> None:
            """Call `move(position in a tensor, in memory, count)` for vectors of all states."""
            with b.loop(spec.batch) as n:
                tensor, own = b.let((d * spec.batch + n) * h), b.let(n * pitch)
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
            with b.loop(spec.batch) as n:
                _step(b, spec, p, memory, before, after, d, n, position, s)
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
    position: Index,
    step: Index,
) -> None:
    """All units of one sequence, one step."""
    h, lanes, blocks = spec.hidden, b.lanes, unit_blocks(spec.hidden, b.lanes)
    width = blocks * lanes
    pitch = padded(spec.hidden, lanes)
    gates = b.let((position * spec.batch + n) * (spec.directions * 4 * h) + d * (4 * h))
    source, target = b.let(before + n * pitch), b.let(after + n * pitch)
    cells = b.let((d * spec.batch + n) * h)
    outputs = b.let(((position * spec.directions + d) * spec.batch + n) * h)
    groups = pitch // width
    # Of the vectors of a group, how many units there are; fewer in the last one.
    counts = [lanes] * blocks
    last = [min(lanes, max(0, h - (groups - 1) * width - v * lanes)) for v in range(blocks)]

    def write(group: Index, counts: list[int]) -> None:
        unit = b.let(group * width)
        panel = b.let((d * groups + group) * spec.panel(width))
        at = b.let(gates + unit)
        inputs = [
            (at + gate * h + v * lanes, counts[v]) for gate in range(4) for v in range(blocks)
        ]
        emit_sums = _narrow_sums if spec.is_narrow else _sums
        sums = emit_sums(b, spec, p, memory, source, panel, inputs)
        for v, count in enumerate(counts):
            if not count:
                continue
            at = unit + v * lanes
            i, o, f, g = (sums[gate * blocks + v] for gate in range(4))
            cell = b.load_partial(p.cell, cells + at, count)
            cell = b.let(vm.sigmoid(f) * cell + vm.sigmoid(i) * vm.tanh(g))
            hidden = b.let(vm.sigmoid(o) * vm.tanh(cell))
            b.store_partial(p.cell, cells + at, cell, count)
            b.store(memory, target + at, hidden)
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
    source: Index,
    panel: Index,
    inputs: list[tuple[Index, int]],
) -> list[Expr]:
    """The vectors of projected input at `inputs`, plus the panel at `panel` times the state."""
    acc = [b.register() for _ in inputs]
    for register, (at, count) in zip(acc, inputs):
        register.set(_input(b, p, at, count))
    with b.loop(spec.hidden) as k:
        value = b.let(b.broadcast(memory, source + k))
        row = b.let(panel + k * (len(acc) * b.lanes))
        for i, register in enumerate(acc):
            if not inputs[i][1]:
                continue
            at = row + i * b.lanes
            b.prefetch(p.weight, at + PREFETCH, 3)
            register.set(register.get() + value * b.load(p.weight, at))
    return [b.let(register.get()) for register in acc]


def _narrow_sums(
    b: KernelBuilder,
    spec: LstmSpec,
    p: LstmBuffers,
    memory: Buffer,
    source: Index,
    panel: Index,
    inputs: list[tuple[Index, int]],
) -> list[Expr]:
    """`_sums` of weights in 24 bits."""
    lanes, count = b.lanes, len(inputs)
    acc = [b.register() for _ in inputs]
    for register in acc:
        register.set(b.splat(0.0))
    rows = b.let(panel + count * lanes)
    with b.loop(spec.hidden) as k:
        value = b.let(b.broadcast(memory, source + k))
        row = b.let(rows + k * (count * 3 // 4 * lanes))
        for quad in range(count // 4):
            parts = [b.let(b.load(p.weight, row + (3 * quad + j) * lanes)) for j in range(3)]
            last = tirx.shift_left(parts[0], b.splat(24, dtype="int32"))
            for part, mask, shift in ((parts[1], 0xFF0000, 16), (parts[2], 0xFF00, 8)):
                moved = tirx.shift_left(part, b.splat(shift, dtype="int32"))
                last = last | (moved & b.splat(mask, dtype="int32"))
            for j, integers in enumerate((*parts, b.let(last))):
                register = acc[4 * quad + j]
                weight = tirx.Cast(vector("float32", lanes), integers)
                register.set(register.get() + value * weight)
    sums = []
    for i, (register, (at, units)) in enumerate(zip(acc, inputs)):
        bits = b.load(p.weight, panel + i * lanes)
        scale = tirx.reinterpret(vector("float32", lanes), bits)
        sums.append(b.let(_input(b, p, at, units) + register.get() * scale))
    return sums


# Elements ahead in the packed weights: a row of sixteen vectors.
PREFETCH = 2048
