"""Recurrent weights in panels of a few vectors of units, and the states that they multiply.

A panel holds all gates of its units, row by row of the state: what one pass over the state adds up
in registers. The sequences of a batch that are computed together share what is read of it.

Units that do not fill the last vectors are padded in the packed weights and in the states: sums of
nothing, which are neither read from tensors nor written to them.

    float32     as they are
    bits24      for weights that would fill the L2 cache: integers times a scale per column, with
                an error of at most 2**-24 of the column's largest weight, which is what float32
                has for that one
    bfloat16    pairs of rows, by dot products; the state is rounded to pairs as well

Four vectors of 24 bits take the room of three, and are taken apart in registers:

    lane of vector 0, 1, 2   24 bits of its own, and below them 8 bits of vector 3's. They are read
                             as one integer of 32 bits: packing rounds with them in place.
    lane of vector 3         the three times 8 bits, from the top
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tvm import tirx

from relaxc.targets.llvm.kernels.arithmetic import BFLOAT16
from relaxc.targets.llvm.kernels.builder import (
    Buffer,
    Expr,
    Index,
    KernelBuilder,
    Register,
    vector,
)

Storage = Literal["float32", "bits24", "bfloat16"]

# Bytes ahead in the packed weights.
_PREFETCH = 8192


def padded(hidden: int, lanes: int) -> int:
    """Units in whole vectors; in pairs of them, so that there are sums enough to add to in turn."""
    blocks = -(-hidden // lanes)
    return (blocks if blocks == 1 or hidden % lanes == 0 else blocks + blocks % 2) * lanes


@dataclass(frozen=True)
class Panels:
    """The weights of some gates.

    Attributes:
        gates: how many gates.
        hidden: units.
        rows: sequences that are computed together, at most.
        sums: vectors of sums at a time, for which there are registers.
        lanes: elements of a vector.
        storage: how weights are stored.
    """

    gates: int
    hidden: int
    rows: int
    sums: int
    lanes: int
    storage: Storage = "float32"

    @property
    def blocks(self) -> int:
        """Vectors of units of a panel."""
        return self._fitting(self.rows, 1)

    def together(self, rows: int) -> int:
        """Panels at a time for so many sequences: more of them for fewer sequences."""
        return self._fitting(rows, self.blocks)

    def _fitting(self, rows: int, blocks: int) -> int:
        most = max(1, self.sums // (self.gates * rows * blocks))
        total = padded(self.hidden, self.lanes) // self.lanes // blocks
        return next(n for n in (4, 2, 1) if n <= most and total % n == 0)

    @property
    def vectors(self) -> int:
        """Columns of a panel, in vectors."""
        return self.gates * self.blocks

    @property
    def is_paired(self) -> bool:
        """Whether pairs are multiplied."""
        return self.storage == "bfloat16"

    @property
    def dtype(self) -> str:
        """Of the packed weights, 32 bits each."""
        return "float32" if self.storage == "float32" else "int32"

    @property
    def size(self) -> int:
        """Elements of a panel."""
        row = self.vectors * self.lanes
        if self.storage == "bits24":
            return row + self.hidden * row * 3 // 4
        return (-(-self.hidden // 2) if self.is_paired else self.hidden) * row

    @property
    def total(self) -> int:
        """Elements of all panels."""
        return padded(self.hidden, self.lanes) // (self.blocks * self.lanes) * self.size

    def pack(self, recurrent: np.ndarray) -> np.ndarray:
        """[direction, gates * hidden, hidden] -> [direction, total].

        A panel is [row][gate][unit]; of 24 bits the scales [gate][unit] and [row][four vectors][3].
        """
        width = self.blocks * self.lanes
        d, k, h = len(recurrent), self.hidden, padded(self.hidden, self.lanes)
        gates = np.zeros((d, self.gates, h, k), np.float32)
        gates[:, :, :k] = recurrent.reshape(d, self.gates, k, k)
        panels = gates.reshape(d, self.gates, h // width, width, k).transpose(0, 2, 4, 1, 3)
        panels = np.ascontiguousarray(panels).reshape(d, h // width, k, self.gates * width)
        if self.is_paired:
            panels = BFLOAT16.pack(panels)
        if self.storage == "bits24":
            panels = _narrowed(panels, self.lanes)
        return panels.reshape(d, -1)

    def products(
        self,
        b: KernelBuilder,
        weight: Buffer,
        states: States,
        sources: Sequence[Index],
        first: Index,
        counts: Sequence[int],
        start: Callable[[int, int, int], Expr],
    ) -> list[list[list[Expr]]]:
        """Panels times states, one [row][vector of units][gate].

        Args:
            b: where to write it.
            weight: the packed weights.
            states: where the states are.
            sources: of the rows, in there.
            first: where the first panel begins.
            counts: units of each vector, of as many panels as are to be added up; vectors without
                any are left out.
            start: what sums begin with, by row, gate and vector.
        """
        acc = [[[b.register() for _ in range(self.gates)] for _ in counts] for _ in sources]
        used = [v for v, count in enumerate(counts) if count]
        # What scales apply to comes after the products.
        begin = (lambda *_: b.splat(0.0)) if self.storage == "bits24" else start
        for r, row in enumerate(acc):
            for gate in range(self.gates):
                for v in used:
                    row[v][gate].set(begin(r, gate, v))
        firsts = [b.let(first + p * self.size) for p in range(len(counts) // self.blocks)]
        multiply = self._narrow_products if self.storage == "bits24" else self._plain_products
        multiply(b, weight, states, sources, firsts, acc, used)
        if self.storage != "bits24":
            return [[[b.let(sum_.get()) for sum_ in vectors] for vectors in row] for row in acc]
        found: list[list[list[Expr]]] = [[[] for _ in counts] for _ in sources]
        for v, gate in itertools.product(used, range(self.gates)):
            panel, block = divmod(v, self.blocks)
            at = firsts[panel] + (gate * self.blocks + block) * self.lanes
            scale = tirx.reinterpret(vector("float32", self.lanes), b.load(weight, at))
            scale = b.let(scale)
            for r, row in enumerate(acc):
                found[r][v].append(b.let(start(r, gate, v) + row[v][gate].get() * scale))
        return found

    def _plain_products(
        self,
        b: KernelBuilder,
        weight: Buffer,
        states: States,
        sources: Sequence[Index],
        firsts: list[Index],
        acc: list[list[list[Register]]],
        used: list[int],
    ) -> None:
        """Add products of float32, or of pairs."""
        depth = -(-self.hidden // 2) if self.is_paired else self.hidden
        with b.loop(depth) as k:
            values = [states.broadcast(source, k) for source in sources]
            starts = [b.let(first + k * (self.vectors * self.lanes)) for first in firsts]
            for gate in range(self.gates):
                for v in used:
                    panel, block = divmod(v, self.blocks)
                    at = starts[panel] + (gate * self.blocks + block) * self.lanes
                    b.prefetch(weight, at + _PREFETCH // 4, 3)
                    loaded = b.let(b.load(weight, at))
                    for row, value in zip(acc, values):
                        total = row[v][gate].get()
                        if self.is_paired:
                            row[v][gate].set(b.dot_bfloat16(total, value, loaded))
                        else:
                            row[v][gate].set(total + value * loaded)

    def _narrow_products(
        self,
        b: KernelBuilder,
        weight: Buffer,
        states: States,
        sources: Sequence[Index],
        firsts: list[Index],
        acc: list[list[list[Register]]],
        used: list[int],
    ) -> None:
        """Add products of integers of 24 bits."""
        lanes = self.lanes
        rows = [b.let(first + self.vectors * lanes) for first in firsts]
        with b.loop(self.hidden) as k:
            values = [states.broadcast(source, k) for source in sources]
            for panel, row in enumerate(rows):
                start = b.let(row + k * (self.vectors * 3 // 4 * lanes))
                for quad in range(self.vectors // 4):
                    parts = _taken_apart(b, weight, start + 3 * quad * lanes)
                    for j, integers in enumerate(parts):
                        gate, block = divmod(4 * quad + j, self.blocks)
                        v = panel * self.blocks + block
                        if v not in used:
                            continue
                        loaded = b.let(tirx.Cast(vector("float32", lanes), integers))
                        for sums, value in zip(acc, values):
                            register = sums[v][gate]
                            register.set(register.get() + value * loaded)


def _narrowed(panels: np.ndarray, lanes: int) -> np.ndarray:
    """Panels [direction, panel, row, column] in 24 bits: [direction, panel, scales and rows]."""
    d, count, k, _ = panels.shape
    largest = np.abs(panels).max(axis=2, keepdims=True).astype(np.float64)
    scale = (np.maximum(largest, 1e-20) / (2**31 - 256)).astype(np.float32)
    integers = np.rint(panels / scale.astype(np.float64)).astype(np.int64)
    quads = integers.reshape(d, count, k, -1, 4, lanes)
    limit = 2**23 - 1
    last = np.clip(quads[..., 3, :] + 128 >> 8, -limit, limit)
    low = np.stack([last >> shift & 255 for shift in (16, 8, 0)], axis=-2)
    high = (quads[..., :3, :] - low + 128 >> 8 << 8) + low
    rows = np.clip(high, -(2**31), 2**31 - 1).astype(np.int32).reshape(d, count, -1)
    return np.concatenate([scale.reshape(d, count, -1).view(np.int32), rows], axis=-1)


def _taken_apart(b: KernelBuilder, weight: Buffer, at: Index) -> list[Expr]:
    """Four vectors of integers, from the three that hold them."""
    parts = [b.let(b.load(weight, at + j * b.lanes)) for j in range(3)]
    last = tirx.shift_left(parts[0], b.splat(24, dtype="int32"))
    for part, mask, shift in ((parts[1], 0xFF0000, 16), (parts[2], 0xFF00, 8)):
        moved = tirx.shift_left(part, b.splat(shift, dtype="int32"))
        last = last | (moved & b.splat(mask, dtype="int32"))
    return [*parts, b.let(last)]


class States:
    """Scratch memory of states: as float32, and as what they are multiplied as."""

    def __init__(self, b: KernelBuilder, size: int, is_paired: bool) -> None:
        self._b = b
        self.values = b.workspace(size)
        self._pairs = b.workspace(size // 2, "int32") if is_paired else None

    def store(self, at: Index, value: Expr) -> None:
        """A vector of units."""
        b = self._b
        b.store(self.values, at, value)
        if self._pairs is not None:
            bits = tirx.reinterpret(vector("int32", b.lanes // 2), b.to_bfloat16(value, b.lanes))
            b.store(self._pairs, at // 2, bits, b.lanes // 2)

    def load(self, at: Index) -> Expr:
        """A vector of units, as float32."""
        return self._b.load(self.values, at)

    def broadcast(self, source: Index, k: Index) -> Expr:
        """The unit `k` from `source` on, or the pair, in all lanes."""
        b = self._b
        if self._pairs is None:
            return b.let(b.broadcast(self.values, source + k))
        return b.let(b.broadcast(self._pairs, source // 2 + k))
