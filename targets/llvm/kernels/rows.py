"""Kernels over rows: layer, RMS and softmax normalization of the last dimension.

A row stays in the L1 cache over its passes. Each pass keeps several independent accumulators, so
that it is bound by loads and not by the latency of one add; lanes are summed by halves, because
LLVM's reduction intrinsic without reassociation is a serial chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from relaxc.targets.llvm.kernels import vector_math as vm
from relaxc.targets.llvm.kernels.builder import Expr, Index, KernelBuilder, Register
from relaxc.targets.llvm.kernels.lookup import exact
from relaxc.targets.llvm.kernels.operands import Operands
from relaxc.targets.llvm.kernels.view import View

_CHAINS = 4
# Where a pass fetches the next row meanwhile: hardware does not look beyond the end of a page.
_L1 = 3


def emit_norm(
    b: KernelBuilder,
    x: View,
    y: View,
    operands: Operands,
    scale: View | None,
    offset: View | None,
    epsilon: float,
    centered: bool,
) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + offset; no mean if not `centered`."""
    row = Row(b, x.channels)
    with b.parallel(_rows(x)) as r:
        base = b.let(x.at(0, 0, 0, r))
        mean = None
        if centered:
            total = row.reduce(lambda at, n: b.load_partial(x.buffer, base + at, n), _add, 0.0)
            mean = b.let(b.splat(total * tirx.FloatImm("float32", 1.0 / x.channels)))

        def deviation(at: Index, count: int) -> Expr:
            value = b.load_partial(x.buffer, base + at, count)
            if mean is None:
                return value
            # Lanes beyond the row are zero and must stay so.
            return b.keep(value - mean, count)

        def square(at: Index, count: int) -> Expr:
            b.prefetch(x.buffer, base + x.pixel + at, _L1)
            b.prefetch(y.buffer, b.let(y.at(0, 0, 0, r)) + y.pixel + at, _L1, writes=True)
            value = b.let(deviation(at, count))
            return value * value

        variance = row.reduce(square, _add, 0.0) * tirx.FloatImm("float32", 1.0 / x.channels)
        inverse = tirx.FloatImm("float32", 1.0) / tirx.sqrt(
            variance + tirx.FloatImm("float32", epsilon)
        )
        factor = b.let(b.splat(inverse))

        def store(at: Index, count: int) -> None:
            value = deviation(at, count) * factor
            if scale is not None:
                value = value * b.load_partial(scale.buffer, at, count)
            if offset is not None:
                value = value + b.load_partial(offset.buffer, at, count)
            row.store(y, r, at, count, operands, value)

        row.each(store)


def emit_softmax(b: KernelBuilder, x: View, y: View, operands: Operands) -> None:
    """e**(x - max) / sum, per row."""
    row = Row(b, x.channels)
    # Of nothing but -inf: the differences below are NaN then, as they should be.
    lowest = float("-inf")
    with b.parallel(_rows(x)) as r:
        base, out = b.let(x.at(0, 0, 0, r)), b.let(y.at(0, 0, 0, r))

        def padded(at: Index, count: int) -> Expr:
            return b.load_partial(x.buffer, base + at, count, fill=lowest)

        largest = b.let(b.splat(row.reduce(padded, tirx.max, lowest)))

        def exponential(at: Index, count: int) -> Expr:
            b.prefetch(x.buffer, base + x.pixel + at, _L1)
            b.prefetch(y.buffer, out + y.pixel + at, _L1, writes=True)
            value = b.let(exact(b, "decay", padded(at, count) - largest))
            value = b.let(b.keep(value, count))
            b.store_partial(y.buffer, out + at, value, count)
            return value

        total = row.reduce(exponential, _add, 0.0)
        factor = b.let(b.splat(tirx.FloatImm("float32", 1.0) / total))

        def store(at: Index, count: int) -> None:
            value = b.load_partial(y.buffer, out + at, count) * factor
            row.store(y, r, at, count, operands, value)

        row.each(store)


def _rows(x: View) -> Any:
    return x.width


def _add(a: Expr, c: Expr) -> Expr:
    return a + c


class Row:
    """Passes over the elements of a row of static length, vector by vector."""

    def __init__(self, b: KernelBuilder, length: int) -> None:
        self.b = b
        self.whole, self.rest = divmod(length, b.lanes)

    def each(self, body: Callable[[Index, int], None], chains: int = _CHAINS) -> None:
        """Call `body(first element, count)` for every vector; unrolled `chains` times."""
        b = self.b
        groups, left = divmod(self.whole, chains)
        if groups:
            with b.loop(groups) as g:
                for i in range(chains):
                    body(b.let((g * chains + i) * b.lanes), b.lanes)
        for i in range(left):
            body((groups * chains + i) * b.lanes, b.lanes)
        if self.rest:
            body(self.whole * b.lanes, self.rest)

    def reduce(
        self,
        value: Callable[[Index, int], Expr],
        join: Callable[[Expr, Expr], Expr],
        neutral: float,
    ) -> Expr:
        """Join all elements of `value(first element, count)` into one scalar."""
        b = self.b
        chains: list[Register] = [b.register() for _ in range(_CHAINS)]
        for register in chains:
            register.set(b.splat(neutral))
        turn = 0

        def accumulate(at: Index, count: int) -> None:
            nonlocal turn
            register = chains[turn % _CHAINS]
            register.set(join(register.get(), value(at, count)))
            turn += 1

        self.each(accumulate)
        low, high = (join(chains[i].get(), chains[i + 1].get()) for i in (0, 2))
        return b.let(across(b, b.let(join(low, high)), join))

    def store(
        self, y: View, r: Index, at: Index, count: int, operands: Operands, value: Expr
    ) -> None:
        """Apply the epilogue to a vector of row `r` and write it."""
        b = self.b
        block = at // b.lanes
        value = b.let(operands.apply(b, b.let(value), 0, block, 0, r, count))
        b.store_partial(y.buffer, y.at(0, block, 0, r), value, count)


def across(b: KernelBuilder, value: Expr, join: Callable[[Expr, Expr], Expr]) -> Expr:
    """Join the lanes of a vector into a scalar, by halves."""
    lanes = vm.lanes_of(value)
    while lanes > 1:
        lanes //= 2
        low = _lanes(value, range(lanes))
        high = _lanes(value, range(lanes, 2 * lanes))
        value = b.let(join(low, high))
    return value


def _lanes(value: Expr, which: Sequence[int]) -> Expr:
    return tirx.Shuffle([value], [tirx.IntImm("int32", i) for i in which])
