"""The recurrence of a GRU: as that of an LSTM, with three gates and one state.

With the reset gate after the product (`linear_before_reset`), the three sums of a block of units
are one pass over the weights; before it, the candidates' product needs all units that are kept,
and is a second pass. Sequences and directions are independent and shared among threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.lstm import PREFETCH, padded, unit_blocks

# A buffer, where a vector of so many units lies in it.
_Start = tuple[Buffer, Index, int]


@dataclass(frozen=True)
class GruSpec:
    """Sizes of a recurrence.

    Attributes:
        steps, batch: may be symbolic.
        directions: 1 or 2; the second runs backward.
        hidden: units.
        backward: whether a single direction runs backward.
        after: whether the reset gate comes after the product.
    """

    steps: Any
    batch: Any
    directions: int
    hidden: int
    backward: bool
    after: bool


@dataclass(frozen=True)
class GruBuffers:
    """The parameters of the kernel, in order."""

    gates: Buffer
    weight: Buffer
    bias: Buffer
    lengths: Buffer
    hidden0: Buffer
    outputs: Buffer
    hidden: Buffer


def pack_gru_weights(recurrent: np.ndarray, spec: GruSpec, lanes: int) -> np.ndarray:
    """[direction, 3 * hidden, hidden] -> [direction][pass][group][k][gate][unit in group]."""
    width = unit_blocks(spec.hidden, lanes) * lanes
    d, k, h = spec.directions, spec.hidden, padded(spec.hidden, lanes)
    gates = np.zeros((d, 3, h // width, width, k), np.float32)
    gates.reshape(d, 3, h, k)[:, :, :k] = recurrent.reshape(d, 3, k, k)
    passes = [gates] if spec.after else [gates[:, :2], gates[:, 2:]]
    packed = [p.transpose(0, 2, 4, 1, 3).reshape(d, -1) for p in passes]
    return np.ascontiguousarray(np.concatenate(packed, axis=1))


def emit_gru(b: KernelBuilder, spec: GruSpec, p: GruBuffers) -> None:
    """Write the kernel."""
    with b.parallel(spec.directions * spec.batch) as task:
        _Sequence(b, spec, p, b.let(task // spec.batch), b.let(task % spec.batch)).write()


class _Sequence:
    """One sequence in one direction."""

    def __init__(self, b: KernelBuilder, spec: GruSpec, p: GruBuffers, d: Expr, n: Expr) -> None:
        self.b, self.spec, self.p, self.d, self.n = b, spec, p, d, n
        self.pitch = padded(spec.hidden, b.lanes)
        self.blocks = unit_blocks(spec.hidden, b.lanes)
        self.width = self.blocks * b.lanes
        # The state of the step before and of this one, which change roles every step; the update
        # gate, and what the reset gate keeps of the state.
        self.memory = b.workspace((2 if spec.after else 4) * self.pitch)

    def write(self) -> None:
        b, spec, p, h = self.b, self.spec, self.p, self.spec.hidden
        state = b.let((self.d * spec.batch + self.n) * h)
        length = b.let(tirx.min(b.load(p.lengths, self.n, 1), spec.steps))
        self._each(
            lambda at, count: b.store(self.memory, at, b.load_partial(p.hidden0, state + at, count))
        )
        with b.loop(length) as s:
            last = length - 1 - s
            if spec.directions == 1:
                position = b.let(last if spec.backward else s)
            else:
                position = b.let(s + self.d * (last - s))
            self._step(position, s)
        before = b.let(length % 2 * self.pitch)
        self._each(
            lambda at, count: b.store_partial(
                p.hidden, state + at, b.load(self.memory, before + at), count
            )
        )
        with b.loop(b.let(spec.steps - length)) as s:
            output = self._output(length + s)
            self._each(
                lambda at, count: b.store_partial(p.outputs, output + at, b.splat(0.0), count)
            )

    def _output(self, position: Expr) -> Expr:
        spec = self.spec
        row = (position * spec.directions + self.d) * spec.batch + self.n
        return self.b.let(row * spec.hidden)

    def _each(self, body: Callable[[Index, int], None]) -> None:
        """Call `body(first unit, count)` for all vectors of units."""
        b, (whole, rest) = self.b, divmod(self.spec.hidden, self.b.lanes)
        with b.loop(whole) as i:
            body(b.let(i * b.lanes), b.lanes)
        if rest:
            body(whole * b.lanes, rest)

    def _groups(self, body: Callable[[Expr, list[int]], None]) -> None:
        """Call `body(group, units per vector)` for all groups of vectors; the last has fewer."""
        b, groups, lanes = self.b, self.pitch // self.width, self.b.lanes
        rest = self.spec.hidden - (groups - 1) * self.width
        last = [min(lanes, max(0, rest - v * lanes)) for v in range(self.blocks)]
        whole = groups if last[-1] == lanes else groups - 1
        with b.loop(whole) as group:
            body(group, [lanes] * self.blocks)
        if whole < groups:
            body(tirx.IntImm("int64", whole), last)

    def _step(self, position: Expr, step: Expr) -> None:
        b, spec, p, h = self.b, self.spec, self.p, self.spec.hidden
        gates = b.let(
            (position * spec.batch + self.n) * (spec.directions * 3 * h) + self.d * (3 * h)
        )
        before, after = b.let(step % 2 * self.pitch), b.let((step + 1) % 2 * self.pitch)
        output = self._output(position)
        bias = b.let(self.d * h)
        own = b.let(self.d * (3 * self.pitch * h))
        second = own + 2 * self.pitch * h

        def inputs(gate: int, unit: Expr, counts: list[int]) -> list[_Start]:
            at = gates + (unit + gate * h)
            return [(p.gates, at + v * b.lanes, count) for v, count in enumerate(counts)]

        def biases(unit: Expr, counts: list[int]) -> list[_Start]:
            at = bias + unit
            return [(p.bias, at + v * b.lanes, count) for v, count in enumerate(counts)]

        def finish(v: int, unit: Expr, count: int, candidate: Expr, update: Expr) -> None:
            at = unit + v * b.lanes
            value = b.let(vm.tanh(b.load_partial(p.gates, gates + (at + 2 * h), count) + candidate))
            state = b.load(self.memory, before + at)
            result = b.let((b.splat(1.0) - update) * value + update * state)
            b.store(self.memory, after + at, result)
            b.store_partial(p.outputs, output + at, result, count)

        def whole(group: Expr, counts: list[int]) -> None:
            unit = b.let(group * self.width)
            panel = b.let(own + group * (3 * self.width * h))
            starts = [*inputs(0, unit, counts), *inputs(1, unit, counts), *biases(unit, counts)]
            sums = self._sums(panel, starts, before)
            for v, count in enumerate(counts):
                if count:
                    update, reset, value = sums[v :: self.blocks]
                    kept = b.let(vm.sigmoid(reset) * value)
                    finish(v, unit, count, kept, b.let(vm.sigmoid(update)))

        def gated(group: Expr, counts: list[int]) -> None:
            unit = b.let(group * self.width)
            panel = b.let(own + group * (2 * self.width * h))
            starts = [*inputs(0, unit, counts), *inputs(1, unit, counts)]
            sums = self._sums(panel, starts, before)
            for v, count in enumerate(counts):
                if count:
                    update, reset = sums[v :: self.blocks]
                    at = unit + v * b.lanes
                    state = b.load(self.memory, before + at)
                    b.store(self.memory, at + 2 * self.pitch, vm.sigmoid(update))
                    b.store(self.memory, at + 3 * self.pitch, vm.sigmoid(reset) * state)

        def candidates(group: Expr, counts: list[int]) -> None:
            unit = b.let(group * self.width)
            panel = b.let(second + group * (self.width * h))
            sums = self._sums(panel, biases(unit, counts), 3 * self.pitch)
            for v, count in enumerate(counts):
                if count:
                    update = b.let(b.load(self.memory, unit + (v * b.lanes + 2 * self.pitch)))
                    finish(v, unit, count, sums[v], update)

        if spec.after:
            self._groups(whole)
        else:
            self._groups(gated)
            self._groups(candidates)

    def _sums(self, panel: Expr, starts: Sequence[_Start], state: Index) -> list[Expr]:
        """Vectors of units at `starts`, plus the panel times what lies at `state` in memory."""
        b, p = self.b, self.p
        acc = [b.register() for _ in starts]
        for register, (buffer, at, count) in zip(acc, starts):
            register.set(b.load_partial(buffer, at, count) if count else b.splat(0.0))
        with b.loop(self.spec.hidden) as k:
            value = b.let(b.broadcast(self.memory, state + k))
            row = b.let(panel + k * (len(acc) * b.lanes))
            for i, register in enumerate(acc):
                if not starts[i][2]:
                    continue
                at = row + i * b.lanes
                b.prefetch(p.weight, at + PREFETCH, 3)
                register.set(register.get() + value * b.load(p.weight, at))
        return [b.let(register.get()) for register in acc]
