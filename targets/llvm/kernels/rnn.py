"""The recurrence of a plain RNN: one sum and one activation per unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder
from relaxc.targets.llvm.kernels.recurrence import Recurrence, Row, Sequences, each_task

# By ONNX's name in lower case; NaN stays NaN.
RNN_ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "relu": lambda x: tirx.max(vm.const(0.0, x), x),
    "sigmoid": vm.sigmoid,
    "tanh": vm.tanh,
}


@dataclass(frozen=True)
class RnnBuffers:
    """The parameters of the kernel, in order."""

    gates: Buffer
    weight: Buffer
    lengths: Buffer
    hidden0: Buffer
    outputs: Buffer
    hidden: Buffer


def emit_rnn(b: KernelBuilder, spec: Recurrence, p: RnnBuffers, activation: str) -> None:
    """Write the kernel; `activation` is one of `RNN_ACTIVATIONS`."""
    each_task(b, spec, lambda d, n, rows: _Rnn(b, spec, d, n, rows).write(p, activation))


class _Rnn(Sequences):
    """Some sequences in one direction."""

    def write(self, p: RnnBuffers, activation: str) -> None:
        """All steps."""
        self.p, self.activate = p, RNN_ACTIVATIONS[activation]
        self.run(p.hidden0, p.hidden, p.outputs, p.lengths, self._step)

    def _step(self, rows: Sequence[Row], step: Index, before: Index, after: Index) -> None:
        b, p = self.b, self.p
        panels = self.spec.panels(1, b.lanes)
        together = panels.together(self.rows)
        inputs = [self.inputs(row.position, r, 1) for r, row in enumerate(rows)]
        outputs = [self.output(row.position, r) for r, row in enumerate(rows)]
        sources = [b.let(before + r * self.pitch) for r in range(self.rows)]
        own = b.let(self.d * panels.total)

        def group(i: Index, counts: list[int]) -> None:
            unit = b.let(i * (together * panels.blocks * b.lanes))
            first = b.let(own + i * (together * panels.size))

            def start(r: int, _gate: int, v: int) -> Expr:
                return b.load_partial(p.gates, inputs[r] + unit + v * b.lanes, counts[v])

            sums = panels.products(b, p.weight, self.states, sources, first, counts, start)
            for r, row in enumerate(rows):
                for v, count in enumerate(counts):
                    if not count:
                        continue
                    at = unit + v * b.lanes
                    own_at = at + r * self.pitch
                    new = b.let(self.activate(self.clipped(sums[r][v][0])))
                    kept = row.kept(new, self.states.load(before + own_at))
                    self.states.store(after + own_at, kept)
                    written = row.kept(new, b.splat(0.0))
                    b.store_partial(p.outputs, outputs[r] + at, written, count)

        self.each_group(panels, group, b.let(step % 2))
