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
    """The parameters of the kernel, in order."""

    gates: Buffer
    weight: Buffer
    hidden0: Buffer
    cell0: Buffer
    outputs: Buffer
    hidden: Buffer
    cell: Buffer


def emit_lstm(b: KernelBuilder, spec: Recurrence, p: LstmBuffers) -> None:
    """Write the kernel."""
    each_task(b, spec, lambda d, n, rows: _Lstm(b, spec, d, n, rows).write(p))


class _Lstm(Sequences):
    """Some sequences in one direction."""

    def write(self, p: LstmBuffers) -> None:
        """All steps."""
        b = self.b
        self.each_state(
            lambda tensor, _own, count: b.store_partial(
                p.cell, tensor, b.load_partial(p.cell0, tensor, count), count
            )
        )
        self.run(
            *(p.hidden0, p.hidden, p.outputs, None),
            lambda rows, s, before, after: self._step(p, rows, s, before, after),
        )

    def _step(
        self, p: LstmBuffers, rows: Sequence[Row], step: Index, before: Index, after: Index
    ) -> None:
        b, h = self.b, self.spec.hidden
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
            for r in range(self.rows):
                for v, count in enumerate(counts):
                    if not count:
                        continue
                    at = unit + v * b.lanes
                    i_, o, f, g = sums[r][v]
                    old = b.load_partial(p.cell, cells[r] + at, count)
                    cell = b.let(vm.sigmoid(f) * old + vm.sigmoid(i_) * vm.tanh(g))
                    hidden = b.let(vm.sigmoid(o) * vm.tanh(cell))
                    b.store_partial(p.cell, cells[r] + at, cell, count)
                    self.states.store(after + (at + r * self.pitch), hidden)
                    b.store_partial(p.outputs, outputs[r] + at, hidden, count)

        self.each_group(panels, group, b.let(step % 2))
