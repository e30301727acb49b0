"""The recurrence of an LSTM: gates of a block of units together, states never leave the caches.

Per step and block of units the four gates accumulate in registers over the previous hidden state,
starting from the projected input; cell and hidden state follow at once. Directions are independent
and run on threads of their own. Bound by reading the recurrent weights once per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder


@dataclass(frozen=True)
class LstmSpec:
    """Sizes of a recurrence.

    Attributes:
        steps, batch: may be symbolic.
        directions: 1 or 2; the second runs backward.
        hidden: units; a multiple of the vector width.
        backward: whether a single direction runs backward.
    """

    steps: Any
    batch: Any
    directions: int
    hidden: int
    backward: bool


def unit_blocks(spec: LstmSpec, lanes: int) -> int:
    """Vectors of units whose gates are computed together: four gates each, sixteen registers."""
    blocks = spec.hidden // lanes
    return max(count for count in (1, 2, 4) if blocks % count == 0)


def pack_weights(recurrent: np.ndarray, spec: LstmSpec, lanes: int) -> np.ndarray:
    """[direction, 4 * hidden, hidden] -> [direction][group][k][gate][unit in group]."""
    width = unit_blocks(spec, lanes) * lanes
    d, h = spec.directions, spec.hidden
    packed = recurrent.reshape(d, 4, h // width, width, h).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(packed, np.float32)


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
    states = spec.batch * h
    with b.parallel(spec.directions) as d:
        # The state of the step before and of this one; they change roles every step.
        memory = b.workspace(2 * states)
        with b.loop(spec.batch) as n, b.loop(h // lanes) as u:
            at = n * h + u * lanes
            b.store(memory, at, b.load(p.hidden0, d * states + at))
            b.store(p.cell, d * states + at, b.load(p.cell0, d * states + at))
        with b.loop(spec.steps) as s:
            position = b.let(_position(spec, d, s))
            before, after = b.let(s % 2 * states), b.let((s + 1) % 2 * states)
            with b.loop(spec.batch) as n:
                _step(b, spec, p, memory, before, after, d, n, position, s)
        last = b.let(spec.steps % 2 * states)
        with b.loop(spec.batch) as n, b.loop(h // lanes) as u:
            at = n * h + u * lanes
            b.store(p.hidden, d * states + at, b.load(memory, last + at))


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
    h, lanes, blocks = spec.hidden, b.lanes, unit_blocks(spec, b.lanes)
    width = blocks * lanes
    gates = b.let((position * spec.batch + n) * (spec.directions * 4 * h) + d * (4 * h))
    source, target = b.let(before + n * h), b.let(after + n * h)
    cells = b.let((d * spec.batch + n) * h)
    outputs = b.let(((position * spec.directions + d) * spec.batch + n) * h)
    groups = h // width
    with b.loop(groups) as i:
        # To and fro: weights just above the size of a cache would miss it always, read in a circle.
        group = b.let(i + step % 2 * (groups - 1 - 2 * i))
        unit = b.let(group * width)
        acc = [[b.register() for _ in range(blocks)] for _ in range(4)]
        for gate in range(4):
            for v in range(blocks):
                acc[gate][v].set(b.load(p.gates, gates + gate * h + unit + v * lanes))
        panel = b.let((d * (h // width) + group) * (h * 4 * width))
        with b.loop(h) as k:
            value = b.let(b.broadcast(memory, source + k))
            row = b.let(panel + k * (4 * width))
            for gate in range(4):
                for v in range(blocks):
                    at = row + (gate * blocks + v) * lanes
                    b.prefetch(p.weight, at + _PREFETCH, 3)
                    register = acc[gate][v]
                    register.set(register.get() + value * b.load(p.weight, at))
        for v in range(blocks):
            at = unit + v * lanes
            i, o, f, g = (b.let(acc[gate][v].get()) for gate in range(4))
            cell = b.load(p.cell, cells + at)
            cell = b.let(vm.sigmoid(f) * cell + vm.sigmoid(i) * vm.tanh(g))
            hidden = b.let(vm.sigmoid(o) * vm.tanh(cell))
            b.store(p.cell, cells + at, cell)
            b.store(memory, target + at, hidden)
            b.store(p.outputs, outputs + at, hidden)


# Elements ahead in the packed weights: a row of sixteen vectors.
_PREFETCH = 2048
