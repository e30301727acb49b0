"""What all recurrent layers have in common: sequences shared out, states from step to step.

Directions and sequences are independent and shared among threads. A step is bound by reading the
recurrent weights: some sequences of a batch are computed together, by weights that are read once.
States never leave the caches.

Sequences that end early go on beside the others with masks: their states stay, their outputs
are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, even_tiles
from relaxc.targets.llvm.kernels.recurrent_panels import Panels, States, Storage, padded


@dataclass(frozen=True)
class Recurrence:
    """Sizes of a layer.

    Attributes:
        steps, batch: may be symbolic.
        directions: 1 or 2; the second runs backward.
        hidden: units.
        backward: whether a single direction runs backward.
        rows: sequences that are computed together, at most.
        sums: vectors of sums at a time, for which there are registers.
        cores: that share the sequences.
        storage: how recurrent weights are stored.
        clip: bound of what goes into activations of gates; None for none.
    """

    steps: Any
    batch: Any
    directions: int
    hidden: int
    backward: bool
    rows: int = 1
    sums: int = 16
    cores: int = 1
    storage: Storage = "float32"
    clip: float | None = None

    def panels(self, gates: int, lanes: int) -> Panels:
        """How the weights of so many gates lie."""
        return Panels(gates, self.hidden, self.rows, self.sums, lanes, self.storage)


@dataclass(frozen=True)
class Row:
    """A sequence at a step.

    Attributes:
        position: which input it reads, which output it writes.
        is_on: whether it has not ended, as a vector; None if that is certain.
    """

    position: Index
    is_on: Expr | None

    def kept(self, new: Expr, old: Expr) -> Expr:
        """A state after the step."""
        return new if self.is_on is None else tirx.Select(self.is_on, new, old)


def each_task(
    b: KernelBuilder, spec: Recurrence, write: Callable[[Index, Index, int], None]
) -> None:
    """Call `write(direction, first sequence, sequences)` for all, shared among threads."""
    if isinstance(spec.batch, int):
        tiles = even_tiles(spec.batch, spec.rows) if spec.rows > 1 else [(0, 1, spec.batch)]
        for start, rows, count in tiles:
            with b.parallel(spec.directions * count) as task:
                write(b.let(task // count), b.let(task % count * rows + start), rows)
        return
    # As many together as leave some to all cores; evenly.
    share = spec.batch * spec.directions // spec.cores
    together = b.opaque(tirx.max(tirx.min(share, spec.rows), 1))
    tiles = b.opaque((spec.batch + together - 1) // together)
    with b.parallel(spec.directions * tiles) as task:
        tile, direction = b.opaque(task % tiles), b.opaque(task // tiles)
        first = b.opaque(tile * spec.batch // tiles)
        count = b.opaque((tile + 1) * spec.batch // tiles - first)
        for rows in range(1, spec.rows + 1):
            with b.when(count == rows if spec.rows > 1 else None):
                write(direction, first, rows)


class Sequences:
    """Some sequences in one direction, whose states lie in memory.

    Attributes:
        rows: how many.
        pitch: units of a state, in whole vectors.
        width: units of all states.
        states: of the step before and of the one after, which change roles every step.
    """

    def __init__(
        self, b: KernelBuilder, spec: Recurrence, direction: Index, first: Index, rows: int
    ) -> None:
        self.b, self.spec, self.d, self.n, self.rows = b, spec, direction, first, rows
        self.pitch = padded(spec.hidden, b.lanes)
        self.width = rows * self.pitch
        self.states = self.scratch(2)

    def scratch(self, count: int) -> States:
        """Memory of so many states of each sequence."""
        return States(self.b, count * self.width, self.spec.storage == "bfloat16")

    def run(
        self,
        hidden0: Buffer,
        hidden: Buffer,
        outputs: Buffer,
        lengths: Buffer | None,
        step: Callable[[Sequence[Row], Index, Index, Index], None],
    ) -> None:
        """All steps.

        Args:
            hidden0, hidden: the states before and after, [direction, sequence, unit].
            outputs: [step, direction, sequence, unit].
            lengths: of the sequences; None if none ends early.
            step: writes one, given the rows, its number, and the states before and after.
        """
        b, spec = self.b, self.spec
        self.each_state(
            lambda tensor, own, count: self.states.store(
                own, b.load_partial(hidden0, tensor, count)
            )
        )
        own: list[Expr] = []
        total: Index = spec.steps
        if lengths is not None:
            for r in range(self.rows):
                length = tirx.min(b.load(lengths, self.n + r, 1), spec.steps)
                own.append(b.let(tirx.max(length, tirx.IntImm("int64", 0))))
            total = own[0]
            for length in own[1:]:
                total = tirx.max(total, length)
            total = b.let(total)
        with b.loop(total) as s:
            before, after = b.let(s % 2 * self.width), b.let((s + 1) % 2 * self.width)
            step(self._rows(s, own), s, before, after)
        last = b.let(total % 2 * self.width)
        self.each_state(
            lambda tensor, own, count: b.store_partial(
                hidden, tensor, self.states.load(last + own), count
            )
        )
        if lengths is None:
            return
        with b.loop(b.let(spec.steps - total)) as s:
            for r in range(self.rows):
                self._clear(outputs, self.output(b.let(total + s), r))

    def clipped(self, value: Expr) -> Expr:
        """What goes into an activation."""
        clip = self.spec.clip
        if clip is None:
            return value
        # Constants first: NaN stays NaN.
        upper, lower = self.b.splat(clip), self.b.splat(-clip)
        return self.b.let(tirx.min(upper, tirx.max(lower, value)))

    def each_state(self, move: Callable[[Index, Index, int], None]) -> None:
        """Call `move(position in a tensor, in memory, count)` for vectors of all states."""
        b = self.b
        with b.loop(self.rows) as r:
            tensor, own = b.let(self.state(r)), b.let(r * self.pitch)
            self._each_vector(lambda at, count: move(tensor + at, own + at, count))

    def state(self, r: Index) -> Index:
        """Where a row's state is in a tensor of states."""
        return (self.d * self.spec.batch + self.n + r) * self.spec.hidden

    def output(self, position: Index, r: Index) -> Index:
        """Where a row's output is."""
        spec = self.spec
        row = (position * spec.directions + self.d) * spec.batch + self.n + r
        return self.b.let(row * spec.hidden)

    def inputs(self, position: Index, r: Index, gates: int) -> Index:
        """Where a row's projected inputs are."""
        spec, width = self.spec, gates * self.spec.hidden
        row = (position * spec.batch + self.n + r) * spec.directions + self.d
        return self.b.let(row * width)

    def each_group(
        self, panels: Panels, body: Callable[[Index, list[int]], None], flips: Expr | None = None
    ) -> None:
        """Call `body(group, units per vector)` for all groups of panels; the last has fewer.

        Args:
            panels: the weights.
            body: writes what one pass over the states adds up.
            flips: 1 where groups are visited from the last on. To and fro: weights just above the
                size of a cache would miss it always, read in a circle.
        """
        b, h = self.b, self.spec.hidden
        vectors = panels.together(self.rows) * panels.blocks
        groups = -(-h // (vectors * b.lanes))
        rest = h - (groups - 1) * vectors * b.lanes
        last = [min(b.lanes, max(0, rest - v * b.lanes)) for v in range(vectors)]
        full = [b.lanes] * vectors
        with b.loop(groups) as i:
            group = i if flips is None else b.let(i + flips * (groups - 1 - 2 * i))
            if last == full or groups == 1:
                body(group, last)
                return
            with b.when(group < groups - 1):
                body(group, full)
            with b.when(group >= groups - 1):
                body(group, last)

    def _each_vector(self, body: Callable[[Index, int], None]) -> None:
        """Call `body(first unit, count)` for all vectors of units."""
        b, (whole, rest) = self.b, divmod(self.spec.hidden, self.b.lanes)
        with b.loop(whole) as i:
            body(b.let(i * b.lanes), b.lanes)
        if rest:
            body(whole * b.lanes, rest)

    def _clear(self, outputs: Buffer, output: Index) -> None:
        b = self.b
        self._each_vector(
            lambda at, count: b.store_partial(outputs, output + at, b.splat(0.0), count)
        )

    def _rows(self, s: Index, lengths: list[Expr]) -> list[Row]:
        b, spec = self.b, self.spec
        if not lengths:
            return [Row(b.let(self._visited(s, spec.steps)), None)] * self.rows
        if self.rows == 1:
            return [Row(b.let(self._visited(s, lengths[0])), None)]
        found = []
        for length in lengths:
            is_on = s < length
            position = b.let(tirx.Select(is_on, self._visited(s, length), s))
            found.append(Row(position, tirx.Broadcast(is_on, b.lanes)))
        return found

    def _visited(self, s: Index, length: Index) -> Index:
        if self.spec.directions == 1:
            return length - 1 - s if self.spec.backward else s
        return s + self.d * (length - 1 - 2 * s)
