"""Fused attention: scores of a few queries stay in the L1 cache from the product to the output.

Keys are first packed into panels of a few vectors, transposed, so that a register tile of a few
queries by one panel accumulates over the depth like a matrix product. The scores' epilogue (scale,
mask, bias) is applied to the accumulators; then softmax over the rows of the tile, all rows
together because one row alone is bound by latency; then the product with the values, divided by
the sums at the end.

In bfloat16, queries and keys are multiplied in pairs along the depth, exponentiated scores and
values in pairs of keys. The scores, their exponentials and the sums are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from relaxc.targets.llvm.kernels.arithmetic import Arithmetic
from relaxc.targets.llvm.kernels.attention_operands import AttentionSpec, Heads, PackedOperands
from relaxc.targets.llvm.kernels.builder import Expr, Index, KernelBuilder, even_tiles, index
from relaxc.targets.llvm.kernels.lookup import exact
from relaxc.targets.llvm.kernels.rows import across

_LOWEST = float("-inf")

# (value, batch, head, query, first key, count of keys) -> value
ScoreEpilogue = Callable[[Expr, Index, Index, Index, Index, int], Expr]


@dataclass(frozen=True)
class AttentionTile:
    """How the work is cut.

    Attributes:
        rows: the most queries of a tile.
        vectors: of keys in a panel; two for bfloat16, whose pairs they are.
        by_head: whether a task is a head with all its queries, for which it packs the keys; else
            all keys are packed first, and tasks are tiles of queries.
    """

    rows: int
    vectors: int
    by_head: bool


def choose_tile(spec: AttentionSpec, lanes: int) -> AttentionTile:
    """Eight queries by two vectors of keys; few heads share out their queries."""
    rows = 8 if lanes == 16 else 4
    by_head = spec.batch * spec.heads >= 8 or -(-spec.queries // rows) < 4
    return AttentionTile(rows, 2, by_head)


def tiles(
    spec: AttentionSpec, lanes: int, registers: int, arithmetic: Arithmetic
) -> Iterator[AttentionTile]:
    """All tiles that spill nothing."""
    for vectors in (1, 2, 3, 4) if arithmetic.group == 1 else (2,):
        # The second product has tiles of two vectors.
        largest = (registers - 1 - max(vectors, 2)) // max(vectors, 2)
        sizes = {max(n for _, n, _ in even_tiles(spec.queries, r)) for r in range(1, largest + 1)}
        for rows in sorted(sizes)[-6:]:
            for by_head in (True, False):
                yield AttentionTile(rows, vectors, by_head)


def emit(
    b: KernelBuilder,
    spec: AttentionSpec,
    tile: AttentionTile,
    q: Heads,
    k: Heads,
    v: Heads,
    y: Heads,
    epilogue: ScoreEpilogue,
    arithmetic: Arithmetic,
) -> None:
    """Write the kernel.

    `v` and `y` are contiguous along their last dimension; for bfloat16 `q` and `k` are too, in
    whole pairs.
    """
    problems, rows, vectors = spec.batch * spec.heads, tile.rows, tile.vectors
    q = q.grouped(b, arithmetic.group)
    if tile.by_head:
        with b.parallel(problems) as t:
            batch, head = b.let(t // spec.heads), b.let(t % spec.heads)
            packed = PackedOperands(b, spec, k, v, arithmetic, 1, vectors)
            packed.pack(index(0), batch, head)
            writer = _Writer(b, spec, q, y, epilogue, arithmetic, packed, rows)
            for start, size, count in even_tiles(spec.queries, rows):
                with b.loop(count) as i:
                    writer.tile(index(0), batch, head, b.let(i * size + start), size)
        return
    # Few heads: pack all keys first, then share out the queries as well.
    packed = PackedOperands(b, spec, k, v, arithmetic, problems, vectors)
    with b.parallel(problems) as t:
        packed.pack(t, b.let(t // spec.heads), b.let(t % spec.heads))
    sizes = even_tiles(spec.queries, rows)
    larger, tiles = sizes[0][2], sum(count for _, _, count in sizes)
    with b.parallel(problems * tiles) as t:
        problem, i = b.let(t // tiles), b.let(t % tiles)
        batch, head = b.let(problem // spec.heads), b.let(problem % spec.heads)
        writer = _Writer(b, spec, q, y, epilogue, arithmetic, packed, rows)
        for (start, size, _), here in zip(sizes, (i < larger, i >= larger)):
            # The first ones are one row larger than the others, if sizes differ.
            query = b.let(i * size + (start and larger))
            with b.when(here if len(sizes) > 1 else None):
                writer.tile(problem, batch, head, query, size)


class _Writer:
    """Scores, softmax and output of tiles of at most `rows` queries; owns their workspace."""

    def __init__(
        self,
        b: KernelBuilder,
        spec: AttentionSpec,
        q: Heads,
        y: Heads,
        epilogue: ScoreEpilogue,
        arithmetic: Arithmetic,
        packed: PackedOperands,
        rows: int,
    ) -> None:
        self.b, self.spec, self.epilogue = b, spec, epilogue
        self.q, self.y = q, y
        self.arithmetic, self.packed = arithmetic, packed
        self.vectors, self.panel = packed.vectors, packed.panel
        # One line of padding: rows at power-of-two strides would share cache sets.
        self.stride = packed.panels * packed.panel + b.lanes
        self.scores = b.workspace(rows * self.stride)
        # Exponentiated scores as the second product reads them.
        self.weights, self.weight_stride = self.scores, self.stride
        if arithmetic.group > 1:
            self.weight_stride = packed.panels * packed.panel // arithmetic.group + b.lanes
            self.weights = b.workspace(rows * self.weight_stride, "int32")

    def tile(self, problem: Index, batch: Index, head: Index, query: Index, rows: int) -> None:
        """`rows` queries from `query` on."""
        b, lanes = self.b, self.b.lanes
        largest = [b.register() for _ in range(rows)]
        for register in largest:
            register.set(b.splat(_LOWEST))
        whole, rest = divmod(self.spec.keys, self.panel)
        if whole:
            with b.loop(whole) as p:
                self._scores(largest, problem, batch, head, query, p, self.panel)
        if rest:
            self._scores(largest, problem, batch, head, query, index(whole), rest)
        sums = self._softmax(largest, whole, rest)
        inverse = [
            b.let(b.splat(tirx.FloatImm("float32", 1.0) / across(b, s.get(), lambda a, c: a + c)))
            for s in sums
        ]
        blocks, tail = divmod(self.spec.width, lanes)
        pairs, single = divmod(blocks, 2)
        if pairs:
            with b.loop(pairs) as i:
                column = b.let(i * 2 * lanes)
                self._output(inverse, problem, batch, head, query, column, 2, lanes)
        if single:
            self._output(inverse, problem, batch, head, query, pairs * 2 * lanes, 1, lanes)
        if tail:
            self._output(inverse, problem, batch, head, query, blocks * lanes, 1, tail)

    def _scores(
        self,
        largest: list[Any],
        problem: Index,
        batch: Index,
        head: Index,
        query: Index,
        panel: Index,
        count: int,
    ) -> None:
        b, lanes, rows = self.b, self.b.lanes, len(largest)
        vectors = -(-count // lanes)
        acc = [[b.register() for _ in range(vectors)] for _ in range(rows)]
        for registers in acc:
            for register in registers:
                register.set(b.splat(0.0))
        base = b.let(self.q.at(batch, head, query))
        with b.loop(self.packed.depth) as d:
            keys = [b.let(self.packed.key(problem, panel, d, v)) for v in range(vectors)]
            for r in range(rows):
                at = base + r * self.q.strides[2] + d * self.q.strides[3]
                value = b.let(b.broadcast(self.q.buffer, at))
                for register, key in zip(acc[r], keys):
                    register.set(self.arithmetic.multiply_add(b, register.get(), value, key))
        for r in range(rows):
            for v in range(vectors):
                exist = min(count - v * lanes, lanes)
                where = panel * self.panel + v * lanes
                value = b.let(acc[r][v].get())
                value = b.let(self.epilogue(value, batch, head, query + r, where, exist))
                if exist < lanes:
                    value = b.let(_tail(b, value, exist, _LOWEST))
                largest[r].set(tirx.max(largest[r].get(), value))
                b.store(self.scores, r * self.stride + where, value)

    def _softmax(self, largest: list[Any], whole: int, rest: int) -> list[Any]:
        """Exponentiate the tile; returns the sums, still one per lane."""
        b, lanes, rows = self.b, self.b.lanes, len(largest)
        top = [b.let(b.splat(across(b, m.get(), tirx.max))) for m in largest]
        sums = [b.register() for _ in range(rows)]
        for register in sums:
            register.set(b.splat(0.0))

        def exponential(r: int, at: Index, count: int) -> Expr:
            value = b.let(exact(b, "decay", b.load(self.scores, r * self.stride + at) - top[r]))
            if count < lanes:
                value = b.let(b.keep(value, count))
            sums[r].set(sums[r].get() + value)
            return value

        def exponentiate(panel: Index, count: int) -> None:
            first = panel * self.panel
            exist = [min(count - v * lanes, lanes) for v in range(-(-count // lanes))]
            if self.arithmetic.group == 1:
                for v, keys in enumerate(exist):
                    for r in range(rows):
                        value = exponential(r, first + v * lanes, keys)
                        b.store(self.weights, r * self.stride + first + v * lanes, value)
                return
            for r in range(rows):
                values = [exponential(r, first + v * lanes, n) for v, n in enumerate(exist)]
                paired = b.bfloat16_pairs(*[*values, b.splat(0.0)][:2])
                b.store(self.weights, r * self.weight_stride + panel * lanes, paired)

        if whole:
            with b.loop(whole) as p:
                exponentiate(p, self.panel)
        if rest:
            exponentiate(index(whole), rest)
        return sums

    def _output(
        self,
        inverse: list[Expr],
        problem: Index,
        batch: Index,
        head: Index,
        query: Index,
        column: Index,
        vectors: int,
        count: int,
    ) -> None:
        b, lanes, rows = self.b, self.b.lanes, len(inverse)
        acc = [[b.register() for _ in range(vectors)] for _ in range(rows)]
        for registers in acc:
            for register in registers:
                register.set(b.splat(0.0))
        with b.loop(self.packed.steps) as j:
            values = [
                b.let(self.packed.value(problem, batch, head, j, column + i * lanes, count))
                for i in range(vectors)
            ]
            for r in range(rows):
                weight = b.let(b.broadcast(self.weights, r * self.weight_stride + j))
                for register, value in zip(acc[r], values):
                    register.set(self.arithmetic.multiply_add(b, register.get(), weight, value))
        for r in range(rows):
            for i in range(vectors):
                at = self.y.at(batch, head, query + r, column + i * lanes)
                value = b.let(acc[r][i].get() * inverse[r])
                b.store_partial(self.y.buffer, at, value, count)


def _tail(b: KernelBuilder, value: Expr, count: int, fill: float) -> Expr:
    lanes = [i if i < count else b.lanes + i for i in range(b.lanes)]
    return tirx.Shuffle([value, b.splat(fill)], [tirx.IntImm("int32", i) for i in lanes])
