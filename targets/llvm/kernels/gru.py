"""The recurrence of a GRU: as that of an LSTM, with three gates and one state.

With the reset gate after the product (`linear_before_reset`), the three sums of a block of units
are one pass over the weights; before it, the candidates' product needs all units that are kept,
and is a second pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.recurrence import Recurrence, Row, Sequences, each_task


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


def pack_gru_weights(
    recurrent: np.ndarray, spec: Recurrence, lanes: int, is_after: bool
) -> np.ndarray:
    """[direction, 3 * hidden, hidden] -> [direction][pass][panels]."""
    if is_after:
        return spec.panels(3, lanes).pack(recurrent)
    h = spec.hidden
    passes = [
        spec.panels(2, lanes).pack(recurrent[:, : 2 * h]),
        spec.panels(1, lanes).pack(recurrent[:, 2 * h :]),
    ]
    return np.ascontiguousarray(np.concatenate(passes, axis=1))


def emit_gru(b: KernelBuilder, spec: Recurrence, p: GruBuffers, is_after: bool) -> None:
    """Write the kernel; `is_after`: whether the reset gate comes after the product."""
    each_task(b, spec, lambda d, n, rows: _Gru(b, spec, d, n, rows).write(p, is_after))


class _Gru(Sequences):
    """Some sequences in one direction."""

    def write(self, p: GruBuffers, is_after: bool) -> None:
        """All steps."""
        self.p = p
        if not is_after:
            # The update gate, and what the reset gate keeps of the state.
            self.updates = self.b.workspace(self.width)
            self.kept = self.scratch(1)
        step = self._step_after if is_after else self._step_before
        self.run(p.hidden0, p.hidden, p.outputs, p.lengths, step)

    def _step_after(self, rows: Sequence[Row], step: Index, before: Index, after: Index) -> None:
        b, p, h = self.b, self.p, self.spec.hidden
        panels = self.spec.panels(3, b.lanes)
        together = panels.together(self.rows)
        inputs, outputs, sources = self._places(rows, before)
        own, bias = b.let(self.d * panels.total), b.let(self.d * h)

        def group(i: Index, counts: list[int]) -> None:
            unit = b.let(i * (together * panels.blocks * b.lanes))
            first = b.let(own + i * (together * panels.size))

            def start(r: int, gate: int, v: int) -> Expr:
                if gate == 2:
                    return b.load_partial(p.bias, bias + unit + v * b.lanes, counts[v])
                at = inputs[r] + unit + (gate * h + v * b.lanes)
                return b.load_partial(p.gates, at, counts[v])

            sums = panels.products(b, p.weight, self.states, sources, first, counts, start)
            for r, row in enumerate(rows):
                for v, count in enumerate(counts):
                    if count:
                        update, reset, value = sums[r][v]
                        at = b.let(unit + v * b.lanes)
                        kept = b.let(vm.sigmoid(self.clipped(reset)) * value)
                        sigmoid = b.let(vm.sigmoid(self.clipped(update)))
                        places = (inputs[r] + 2 * h + at, outputs[r] + at)
                        own_at = at + r * self.pitch
                        self._finish(
                            *(row, places, before + own_at, after + own_at),
                            *(count, kept, sigmoid),
                        )

        self.each_group(panels, group, b.let(step % 2))

    def _step_before(self, rows: Sequence[Row], step: Index, before: Index, after: Index) -> None:
        b, p, h = self.b, self.p, self.spec.hidden
        gated, candidates = (self.spec.panels(gates, b.lanes) for gates in (2, 1))
        inputs, outputs, sources = self._places(rows, before)
        own, bias = b.let(self.d * (gated.total + candidates.total)), b.let(self.d * h)
        second = own + gated.total

        def gate(i: Index, counts: list[int]) -> None:
            together = gated.together(self.rows)
            unit = b.let(i * (together * gated.blocks * b.lanes))
            first = b.let(own + i * (together * gated.size))

            def start(r: int, gate: int, v: int) -> Expr:
                at = inputs[r] + unit + (gate * h + v * b.lanes)
                return b.load_partial(p.gates, at, counts[v])

            sums = gated.products(b, p.weight, self.states, sources, first, counts, start)
            for r in range(self.rows):
                for v, count in enumerate(counts):
                    if count:
                        update, reset = sums[r][v]
                        at = b.let(unit + (v * b.lanes + r * self.pitch))
                        b.store(self.updates, at, vm.sigmoid(self.clipped(update)))
                        self.kept.store(
                            at, vm.sigmoid(self.clipped(reset)) * self.states.load(before + at)
                        )

        def candidate(i: Index, counts: list[int]) -> None:
            together = candidates.together(self.rows)
            unit = b.let(i * (together * candidates.blocks * b.lanes))
            first = b.let(second + i * (together * candidates.size))

            def start(r: int, gate: int, v: int) -> Expr:
                return b.load_partial(p.bias, bias + unit + v * b.lanes, counts[v])

            kept = [r * self.pitch for r in range(self.rows)]
            sums = candidates.products(b, p.weight, self.kept, kept, first, counts, start)
            for r, row in enumerate(rows):
                for v, count in enumerate(counts):
                    if count:
                        at = b.let(unit + v * b.lanes)
                        own_at = b.let(at + r * self.pitch)
                        update = b.let(b.load(self.updates, own_at))
                        places = (inputs[r] + 2 * h + at, outputs[r] + at)
                        self._finish(
                            *(row, places, before + own_at, after + own_at),
                            *(count, sums[r][v][0], update),
                        )

        flips = b.let(step % 2)
        self.each_group(gated, gate, flips)
        self.each_group(candidates, candidate, flips)

    def _places(
        self, rows: Sequence[Row], before: Index
    ) -> tuple[list[Index], list[Index], list[Index]]:
        """Where the rows' inputs, outputs and states are."""
        b = self.b
        return (
            [self.inputs(row.position, r, 3) for r, row in enumerate(rows)],
            [self.output(row.position, r) for r, row in enumerate(rows)],
            [b.let(before + r * self.pitch) for r in range(self.rows)],
        )

    def _finish(
        self,
        row: Row,
        places: tuple[Index, Index],
        before: Index,
        after: Index,
        count: int,
        candidate: Expr,
        update: Expr,
    ) -> None:
        """A vector of new states, from the candidate's sum without the input."""
        b, p = self.b, self.p
        total = b.let(b.load_partial(p.gates, places[0], count) + candidate)
        value = b.let(vm.tanh(self.clipped(total)))
        old = b.let(self.states.load(before))
        result = b.let((b.splat(1.0) - update) * value + update * old)
        self.states.store(after, row.kept(result, old))
        b.store_partial(p.outputs, places[1], row.kept(result, b.splat(0.0)), count)
