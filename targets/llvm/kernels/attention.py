"""Fused attention: scores of a few queries stay in the L1 cache from the product to the output.

Keys are first packed into panels of two vectors, transposed, so that a register tile of eight
queries by one panel accumulates over the depth like a matrix product. The scores' epilogue (scale,
mask, bias) is applied to the accumulators; then softmax over the rows of the tile, all rows
together because one row alone is bound by latency; then the product with the values, divided by
the sums at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import (
    Buffer,
    Expr,
    Index,
    KernelBuilder,
    even_tiles,
    index,
)
from relaxc.targets.llvm.kernels.relayout import transpose
from relaxc.targets.llvm.kernels.rows import across

_LOWEST = -3.4028234663852886e38


@dataclass(frozen=True)
class Heads:
    """A (batch, head, position, depth) view of a buffer.

    Attributes:
        buffer: where the elements lie.
        strides: elements per step of batch, head, position and depth.
        offset: elements before the first.
    """

    buffer: Buffer
    strides: tuple[int, int, int, int]
    offset: int

    def at(self, batch: Index, head: Index, position: Index, depth: Index = 0) -> Expr:
        """Index of an element."""
        b, h, p, d = self.strides
        return batch * b + head * h + position * p + depth * d + self.offset


@dataclass(frozen=True)
class AttentionSpec:
    """Sizes of an attention.

    Attributes:
        batch, heads: how many independent problems.
        queries, keys: lengths.
        depth: elements of a query and of a key.
        width: elements of a value.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    depth: int
    width: int


# (value, batch, head, query, first key, count of keys) -> value
ScoreEpilogue = Callable[[Expr, Index, Index, Index, Index, int], Expr]


def emit(
    b: KernelBuilder,
    spec: AttentionSpec,
    q: Heads,
    k: Heads,
    v: Heads,
    y: Heads,
    epilogue: ScoreEpilogue,
) -> None:
    """Write the kernel. `v` and `y` are contiguous along their last dimension."""
    writer = _Writer(b, spec, q, k, v, y, epilogue)
    problems = spec.batch * spec.heads
    tiles = -(-spec.queries // writer.rows)
    if problems >= 8 or tiles < 4:
        with b.parallel(problems) as t:
            batch, head = b.let(t // spec.heads), b.let(t % spec.heads)
            packed = b.workspace(writer.panel_elements)
            scores = b.workspace(writer.rows * writer.score_stride)
            writer.pack_keys(packed, 0, batch, head)
            for start, size, count in even_tiles(spec.queries, writer.rows):
                with b.loop(count) as i:
                    writer.tile(packed, 0, scores, batch, head, b.let(i * size + start), size)
        return
    # Few heads: pack all keys first, then share out the queries as well.
    packed = b.workspace(problems * writer.panel_elements)
    with b.parallel(problems) as t:
        writer.pack_keys(
            packed, t * writer.panel_elements, b.let(t // spec.heads), b.let(t % spec.heads)
        )
    for start, size, count in even_tiles(spec.queries, writer.rows):
        with b.parallel(problems * count) as t:
            problem = b.let(t // count)
            batch, head = b.let(problem // spec.heads), b.let(problem % spec.heads)
            scores = b.workspace(writer.rows * writer.score_stride)
            first = b.let(t % count * size + start)
            writer.tile(packed, problem * writer.panel_elements, scores, batch, head, first, size)


class _Writer:
    def __init__(
        self,
        b: KernelBuilder,
        spec: AttentionSpec,
        q: Heads,
        k: Heads,
        v: Heads,
        y: Heads,
        epilogue: ScoreEpilogue,
    ) -> None:
        self.b, self.spec, self.epilogue = b, spec, epilogue
        self.q, self.k, self.v, self.y = q, k, v, y
        self.vectors = 2
        self.panel = self.vectors * b.lanes
        self.rows = 8 if b.lanes == 16 else 4
        self.panels = -(-spec.keys // self.panel)
        self.panel_elements = self.panels * spec.depth * self.panel
        # One line of padding: rows at power-of-two strides would share cache sets.
        self.score_stride = self.panels * self.panel + b.lanes

    # -- keys ------------------------------------------------------------------------------

    def pack_keys(self, packed: Buffer, origin: Index, batch: Index, head: Index) -> None:
        """[panel][depth][key in panel]; keys beyond the last are zero."""
        b, lanes = self.b, self.b.lanes
        vectors, rest = divmod(self.spec.keys, lanes)
        if vectors:
            with b.loop(vectors) as i:
                self._pack_vector(packed, origin, batch, head, i, lanes)
        if rest:
            self._pack_vector(packed, origin, batch, head, index(vectors), rest)
        for i in range(vectors + bool(rest), self.panels * self.vectors):
            with b.loop(self.spec.depth) as d:
                b.store(packed, self._packed_at(origin, i, d), b.splat(0.0))

    def _packed_at(self, origin: Index, vector: Index, d: Index) -> Expr:
        panel = vector // self.vectors
        return (
            origin
            + (panel * self.spec.depth + d) * self.panel
            + vector % self.vectors * self.b.lanes
        )

    def _pack_vector(
        self, packed: Buffer, origin: Index, batch: Index, head: Index, vector: Index, count: int
    ) -> None:
        b, lanes, k = self.b, self.b.lanes, self.k
        base = b.let(k.at(batch, head, vector * lanes))
        where = b.let(self._packed_at(origin, vector, 0))

        def rows(d: Index, depth: int) -> list[Expr]:
            loaded: list[Expr] = []
            for i in range(lanes):
                if i >= count:
                    loaded.append(b.splat(0.0))
                    continue
                at = base + i * k.strides[2] + d
                loaded.append(b.let(b.load_partial(k.buffer, at, depth)))
            return loaded

        if k.strides[3] != 1:  # keys are transposed already: a vector of keys may be contiguous
            with b.loop(self.spec.depth) as d:
                if k.strides[2] == 1:
                    value = b.load_partial(k.buffer, base + d * k.strides[3], count)
                else:
                    value = self._strided(k.buffer, base + d * k.strides[3], k.strides[2], count)
                b.store(packed, where + d * self.panel, value)
            return
        whole, rest = divmod(self.spec.depth, lanes)
        if whole:
            with b.loop(whole) as block:
                d = b.let(block * lanes)
                for i, value in enumerate(transpose(b, rows(d, lanes))):
                    b.store(packed, where + (d + i) * self.panel, value)
        if rest:
            for i, value in enumerate(transpose(b, rows(whole * lanes, rest))[:rest]):
                b.store(packed, where + (whole * lanes + i) * self.panel, value)

    def _strided(self, buffer: Buffer, at: Index, stride: int, count: int) -> Expr:
        b = self.b
        values = [
            b.load(buffer, at + i * stride, 1) if i < count else tirx.FloatImm("float32", 0.0)
            for i in range(b.lanes)
        ]
        return tirx.Shuffle(values, [tirx.IntImm("int32", i) for i in range(b.lanes)])

    # -- one tile of queries ---------------------------------------------------------------

    def tile(
        self,
        packed: Buffer,
        origin: Index,
        scores: Buffer,
        batch: Index,
        head: Index,
        query: Index,
        rows: int,
    ) -> None:
        """`rows` queries from `query` on: scores, softmax, output."""
        b = self.b
        largest = [b.register() for _ in range(rows)]
        for register in largest:
            register.set(b.splat(_LOWEST))
        whole, rest = divmod(self.spec.keys, self.panel)
        if whole:
            with b.loop(whole) as p:
                self._scores(
                    packed, origin, scores, largest, batch, head, query, rows, p, self.panel
                )
        if rest:
            self._scores(
                packed, origin, scores, largest, batch, head, query, rows, index(whole), rest
            )
        sums = self._softmax(scores, largest, rows, whole, rest)
        inverse = [
            b.let(b.splat(tirx.FloatImm("float32", 1.0) / across(b, s.get(), lambda a, c: a + c)))
            for s in sums
        ]
        blocks, tail = divmod(self.spec.width, b.lanes)
        pairs, single = divmod(blocks, 2)
        if pairs:
            with b.loop(pairs) as i:
                self._output(
                    scores, inverse, batch, head, query, rows, b.let(i * 2 * b.lanes), 2, b.lanes
                )
        if single:
            self._output(scores, inverse, batch, head, query, rows, pairs * 2 * b.lanes, 1, b.lanes)
        if tail:
            self._output(scores, inverse, batch, head, query, rows, blocks * b.lanes, 1, tail)

    def _scores(
        self,
        packed: Buffer,
        origin: Index,
        scores: Buffer,
        largest: list[Any],
        batch: Index,
        head: Index,
        query: Index,
        rows: int,
        panel: Index,
        count: int,
    ) -> None:
        b, lanes = self.b, self.b.lanes
        acc = [[b.register() for _ in range(self.vectors)] for _ in range(rows)]
        for registers in acc:
            for register in registers:
                register.set(b.splat(0.0))
        start = b.let(origin + panel * (self.spec.depth * self.panel))
        base = b.let(self.q.at(batch, head, query))
        with b.loop(self.spec.depth) as d:
            keys = [
                b.let(b.load(packed, start + d * self.panel + v * lanes))
                for v in range(self.vectors)
            ]
            for r in range(rows):
                at = base + r * self.q.strides[2] + d * self.q.strides[3]
                value = b.let(b.broadcast(self.q.buffer, at))
                for v in range(self.vectors):
                    acc[r][v].set(acc[r][v].get() + value * keys[v])
        for r in range(rows):
            for v in range(self.vectors):
                exist = min(max(count - v * lanes, 0), lanes)
                where = panel * self.panel + v * lanes
                value = b.splat(_LOWEST)
                if exist:
                    value = b.let(acc[r][v].get())
                    value = b.let(self.epilogue(value, batch, head, query + r, where, exist))
                    if exist < lanes:
                        value = b.let(_tail(b, value, exist, _LOWEST))
                    largest[r].set(tirx.max(largest[r].get(), value))
                b.store(scores, r * self.score_stride + where, value)

    def _softmax(
        self, scores: Buffer, largest: list[Any], rows: int, whole: int, rest: int
    ) -> list[Any]:
        """Exponentiate the tile in place; returns the sums, still one per lane."""
        b, lanes = self.b, self.b.lanes
        top = [b.let(b.splat(across(b, m.get(), tirx.max))) for m in largest]
        sums = [b.register() for _ in range(rows)]
        for register in sums:
            register.set(b.splat(0.0))

        def exponentiate(first: Index, vectors: int, last: int) -> None:
            for v in range(vectors):
                for r in range(rows):
                    at = r * self.score_stride + first + v * lanes
                    value = b.let(vm.exp(b.load(scores, at) - top[r]))
                    if v == vectors - 1 and last < lanes:
                        value = b.let(b.keep(value, last))
                    b.store(scores, at, value)
                    sums[r].set(sums[r].get() + value)

        if whole:
            with b.loop(whole) as p:
                exponentiate(p * self.panel, self.vectors, lanes)
        if rest:
            exponentiate(index(whole * self.panel), -(-rest // lanes), rest % lanes or lanes)
        return sums

    def _output(
        self,
        scores: Buffer,
        inverse: list[Expr],
        batch: Index,
        head: Index,
        query: Index,
        rows: int,
        column: Index,
        vectors: int,
        count: int,
    ) -> None:
        b, lanes, v = self.b, self.b.lanes, self.v
        acc = [[b.register() for _ in range(vectors)] for _ in range(rows)]
        for registers in acc:
            for register in registers:
                register.set(b.splat(0.0))
        base = b.let(v.at(batch, head, 0, column))
        with b.loop(self.spec.keys) as j:
            values = [
                b.let(b.load_partial(v.buffer, base + j * v.strides[2] + i * lanes, count))
                for i in range(vectors)
            ]
            for r in range(rows):
                weight = b.let(b.broadcast(scores, r * self.score_stride + j))
                for i in range(vectors):
                    acc[r][i].set(acc[r][i].get() + weight * values[i])
        for r in range(rows):
            for i in range(vectors):
                at = self.y.at(batch, head, query + r, column + i * lanes)
                value = b.let(acc[r][i].get() * inverse[r])
                b.store_partial(self.y.buffer, at, value, count)


def _tail(b: KernelBuilder, value: Expr, count: int, fill: float) -> Expr:
    lanes = [i if i < count else b.lanes + i for i in range(b.lanes)]
    return tirx.Shuffle([value, b.splat(fill)], [tirx.IntImm("int32", i) for i in lanes])
