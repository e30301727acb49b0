"""The recurrence of an LSTM: gates of a block of units together.

Per step and block of units the four gates accumulate in registers over the previous hidden state,
starting from the projected input; cell and hidden state follow at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.recurrence import Recurrence, Row, Sequences, each_task


@dataclass(frozen=True)
class LstmBuffers:
    """The parameters of the kernel.

    Attributes:
        gates, weight: projected inputs and packed weights.
        hidden0, cell0: states before.
        outputs, hidden, cell: the results.
        peep: what cells count for in the gates i, o and f; None for nothing.
        lengths: of the sequences; None if none ends early.
    """

    gates: Buffer
    weight: Buffer
    hidden0: Buffer
    cell0: Buffer
    outputs: Buffer
    hidden: Buffer
    cell: Buffer
    peep: Buffer | None = None
    lengths: Buffer | None = None


def emit_lstm(b: KernelBuilder, spec: Recurrence, p: LstmBuffers, couples: bool = False) -> None:
    """Write the kernel; `couples`: whether the forget gate is 1 - input gate."""
    each_task(b, spec, lambda d, n, rows: _Lstm(b, spec, d, n, rows).write(p, couples))


class _Lstm(Sequences):
    """Some sequences in one direction."""

    def write(self, p: LstmBuffers, couples: bool) -> None:
        """All steps."""
        b = self.b
        self.p, self.couples = p, couples
        self.each_state(
            lambda tensor, _own, count: b.store_partial(
                p.cell, tensor, b.load_partial(p.cell0, tensor, count), count
            )
        )
        self.run(p.hidden0, p.hidden, p.outputs, p.lengths, self._step)

    def _step(self, rows: Sequence[Row], step: Index, before: Index, after: Index) -> None:
        b, p, h = self.b, self.p, self.spec.hidden
        panels = self.spec.panels(4, b.lanes)
        together = panels.together(self.rows)
        inputs = [self.inputs(row.position, r, 4) for r, row in enumerate(rows)]
        outputs = [self.output(row.position, r) for r, row in enumerate(rows)]
        cells = [b.let(self.state(r)) for r in range(self.rows)]
        sources = [b.let(before + r * self.pitch) for r in range(self.rows)]
        own = b.let(self.d * panels.total)

        def group(i: Index, counts: list[int]) -> None:
            unit = b.let(i * (together * panels.blocks * b.lanes))
            first = b.let(own + i * (together * panels.size))

            def start(r: int, gate: int, v: int) -> Expr:
                at = inputs[r] + unit + (gate * h + v * b.lanes)
                return b.load_partial(p.gates, at, counts[v])

            sums = panels.products(b, p.weight, self.states, sources, first, counts, start)
            for r, row in enumerate(rows):
                for v, count in enumerate(counts):
                    if not count:
                        continue
                    at = unit + v * b.lanes
                    own_at = at + r * self.pitch
                    old = b.let(b.load_partial(p.cell, cells[r] + at, count))
                    cell, hidden = self._cell(sums[r][v], old, at, count)
                    b.store_partial(p.cell, cells[r] + at, row.kept(cell, old), count)
                    kept = row.kept(hidden, self.states.load(before + own_at))
                    self.states.store(after + own_at, kept)
                    written = row.kept(hidden, b.splat(0.0))
                    b.store_partial(p.outputs, outputs[r] + at, written, count)

        self.each_group(panels, group, b.let(step % 2))

    def _cell(self, sums: list[Expr], old: Expr, unit: Index, count: int) -> tuple[Expr, Expr]:
        """New cells and hidden states of a vector of units."""
        b, i, o, f, g = self.b, *sums
        entered = b.let(vm.sigmoid(self.clipped(self._peeped(i, 0, old, unit, count))))
        if self.couples:
            forgotten = b.splat(1.0) - entered
        else:
            forgotten = vm.sigmoid(self.clipped(self._peeped(f, 2, old, unit, count)))
        cell = b.let(forgotten * old + entered * vm.tanh(self.clipped(g)))
        left = vm.sigmoid(self.clipped(self._peeped(o, 1, cell, unit, count)))
        return cell, b.let(left * vm.tanh(cell))

    def _peeped(self, total: Expr, which: int, cell: Expr, unit: Index, count: int) -> Expr:
        if self.p.peep is None:
            return total
        at = (self.d * 3 + which) * self.spec.hidden + unit
        return self.b.let(total + self.b.load_partial(self.p.peep, at, count) * cell)
