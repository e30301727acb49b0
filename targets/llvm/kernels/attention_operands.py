"""What attention reads: heads in place, and keys and values packed for its two products."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx

from relaxc.targets.llvm.kernels.arithmetic import Arithmetic
from relaxc.targets.llvm.kernels.builder import Buffer, Expr, Index, KernelBuilder, index
from relaxc.targets.llvm.kernels.turn import transpose


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

    def grouped(self, b: KernelBuilder, group: int) -> Heads:
        """The same heads, as groups of neighbours along the depth."""
        if group == 1:
            return self
        *outer, _ = self.strides
        assert has_groups(self.strides, self.offset, group), "groups must be aligned"
        batch, head, position = (stride // group for stride in outer)
        buffer = b.grouped(self.buffer, group)
        return Heads(buffer, (batch, head, position, 1), self.offset // group)


def has_groups(strides: tuple[int, ...], offset: int, group: int) -> bool:
    """Whether the elements of a head lie side by side, and start at whole groups."""
    return strides[3] == 1 and not any(s % group for s in (*strides[:3], offset))


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


class PackedOperands:
    """Keys and values of `problems` heads, as the products read them.

    Keys lie in panels of a few vectors: [panel][depth / group][key in panel]. The last key's vector
    is filled up with zeros; vectors without a key are not written. Values are read in place as
    float32; as bfloat16 they are paired up: [key / 2][width].

    Attributes:
        depth: steps of the first product.
        steps: steps of the second product.
        panel: keys per panel.
        panels: how many.
    """

    def __init__(
        self,
        b: KernelBuilder,
        spec: AttentionSpec,
        k: Heads,
        v: Heads,
        arithmetic: Arithmetic,
        problems: int,
        vectors: int,
    ) -> None:
        group = arithmetic.group
        self.vectors = vectors
        self.b, self.spec, self.v = b, spec, v
        self.k = k.grouped(b, group)
        self.depth, self.steps = spec.depth // group, -(-spec.keys // group)
        self.panel = self.vectors * b.lanes
        self.panels = -(-spec.keys // self.panel)
        self._key_size = self.panels * self.depth * self.panel
        self._columns = -(-spec.width // b.lanes) * b.lanes
        dtype = "float32" if group == 1 else "int32"
        self._keys = b.workspace(problems * self._key_size, dtype, "keys")
        self._values: Buffer | None = None
        if group > 1:
            self._values = b.workspace(problems * self.steps * self._columns, dtype, "values")

    def key(self, problem: Index, panel: Index, d: Index, vector: int) -> Expr:
        """A vector of keys at a step of the depth."""
        at = problem * self._key_size + (panel * self.depth + d) * self.panel
        return self.b.load(self._keys, at + vector * self.b.lanes)

    def value(
        self, problem: Index, batch: Index, head: Index, step: Index, column: Index, count: int
    ) -> Expr:
        """`count` elements of a value, or of a pair of them, from `column` on."""
        if self._values is None:
            at = self.v.at(batch, head, step, column)
            return self.b.load_partial(self.v.buffer, at, count)
        at = (problem * self.steps + step) * self._columns + column
        return self.b.load(self._values, at)

    def pack(self, problem: Index, batch: Index, head: Index) -> None:
        """Fill in one problem."""
        self._pack_keys(self.b.let(problem * self._key_size), batch, head)
        if self._values is not None:
            origin = self.b.let(problem * (self.steps * self._columns))
            self._pack_values(self._values, origin, batch, head)

    def _pack_keys(self, origin: Index, batch: Index, head: Index) -> None:
        b, lanes = self.b, self.b.lanes
        vectors, rest = divmod(self.spec.keys, lanes)
        if vectors:
            with b.loop(vectors) as i:
                self._pack_vector(origin, batch, head, i, lanes)
        if rest:
            self._pack_vector(origin, batch, head, index(vectors), rest)

    def _packed_at(self, origin: Index, vector: Index, d: Index) -> Expr:
        panel = vector // self.vectors
        place = vector % self.vectors * self.b.lanes
        return origin + (panel * self.depth + d) * self.panel + place

    def _pack_vector(
        self, origin: Index, batch: Index, head: Index, vector: Index, count: int
    ) -> None:
        b, lanes, k = self.b, self.b.lanes, self.k
        base = b.let(k.at(batch, head, vector * lanes))
        where = b.let(self._packed_at(origin, vector, 0))

        def rows(d: Index, depth: int) -> list[Expr]:
            loaded: list[Expr] = []
            for i in range(lanes):
                if i >= count:
                    loaded.append(b.splat(0.0, dtype=k.buffer.dtype))
                    continue
                at = base + i * k.strides[2] + d
                loaded.append(b.let(b.load_partial(k.buffer, at, depth)))
            return loaded

        if k.strides[3] != 1:  # keys are transposed already: a vector of keys may be contiguous
            with b.loop(self.depth) as d:
                if k.strides[2] == 1:
                    value = b.load_partial(k.buffer, base + d * k.strides[3], count)
                else:
                    value = self._strided(k.buffer, base + d * k.strides[3], k.strides[2], count)
                b.store(self._keys, where + d * self.panel, value)
            return
        whole, rest = divmod(self.depth, lanes)
        if whole:
            with b.loop(whole) as block:
                d = b.let(block * lanes)
                for i, value in enumerate(transpose(b, rows(d, lanes))):
                    b.store(self._keys, where + (d + i) * self.panel, value)
        if rest:
            for i, value in enumerate(transpose(b, rows(whole * lanes, rest))[:rest]):
                b.store(self._keys, where + (whole * lanes + i) * self.panel, value)

    def _strided(self, buffer: Buffer, at: Index, stride: int, count: int) -> Expr:
        b = self.b
        values = [
            b.load(buffer, at + i * stride, 1) if i < count else tirx.FloatImm("float32", 0.0)
            for i in range(b.lanes)
        ]
        return tirx.Shuffle(values, [tirx.IntImm("int32", i) for i in range(b.lanes)])

    def _pack_values(self, packed: Buffer, origin: Index, batch: Index, head: Index) -> None:
        """Interleave the rows of neighbouring keys; an odd last one with zeros."""
        b, lanes, v = self.b, self.b.lanes, self.v
        bits = replace(v.buffer, dtype="uint16", is_bfloat16=False)

        def row(key: Index, column: int, count: int) -> Expr:
            loaded = b.load_partial(bits, v.at(batch, head, key, column), count)
            return tirx.Cast(f"int32x{lanes}", loaded)

        def pair(step: Index, keys: int) -> None:
            for column in range(0, self.spec.width, lanes):
                count = min(lanes, self.spec.width - column)
                value = row(step * 2, column, count)
                if keys == 2:
                    high = row(step * 2 + 1, column, count)
                    shift = b.splat(16, dtype="int32")
                    value = tirx.bitwise_or(value, tirx.shift_left(high, shift))
                b.store(packed, origin + step * self._columns + column, value)

        whole, odd = divmod(self.spec.keys, 2)
        if whole:
            with b.loop(whole) as step:
                pair(step, 2)
        if odd:
            pair(index(whole), 1)
