"""Addresses of a reduction's operands, split into what a tile computes once and what its loops add.

Before:  x[(n * rows + i + 3) * depth + k]      in every step, for every element of the tile
After:   x[base3 + k]                           with base3 bound before the loops
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad
from tvm_ffi import StructuralKey

from relaxc.targets.llvm.kernels.builder import Expr, KernelBuilder
from relaxc.targets.llvm.schedule.access import ZERO, stride
from relaxc.targets.llvm.schedule.functions import expand_functions
from relaxc.targets.llvm.schedule.nest import (
    Axis,
    Nest,
    analyzer_of,
    loads_of,
    replace_loads,
    substitute,
)

Values = Mapping[tirx.Var, Expr]


@dataclass(frozen=True)
class Operand:
    """A load whose index is affine in the axes of the loops.

    Attributes:
        base: stands for the index at the start of the loops.
        start: that index, in terms of the other axes.
    """

    base: tirx.Var
    start: Expr


@dataclass(frozen=True)
class Steps:
    """The body of a reduction on split addresses.

    Attributes:
        values: one new value per result.
        operands: what is to be bound before the loops.
        lane: stands for the element of a vector of results.
    """

    values: tuple[Expr, ...]
    operands: tuple[Operand, ...]
    lane: tirx.Var

    @staticmethod
    def of(b: KernelBuilder, nest: Nest, vector: Axis | None) -> Steps:
        """Split all loads; products of dimensions among the strides are computed here."""
        analyzer = analyzer_of(nest.axes)
        own = {s.buffer for s in nest.stores}
        lane = tirx.Var("lane", "int64")
        inner = [(axis, axis.var) for axis in nest.reduction]
        if vector is not None and vector not in nest.reduction:
            inner.append((vector, lane))
        operands: list[Operand] = []

        def split(load: TensorLoad) -> Expr:
            if load.source in own or loads_of(load.indices[0]):
                return load
            at = load.indices[0]
            steps = [stride(at, axis, analyzer) for axis, _ in inner]
            if any(step is None for step in steps):
                return load
            start = substitute(at, {axis.var: ZERO for axis in nest.reduction})
            operand = Operand(tirx.Var(f"base{len(operands)}", "int64"), analyzer.simplify(start))
            operands.append(operand)
            index: Expr = operand.base
            for (_, var), step in zip(inner, steps):
                if not (isinstance(step, tirx.IntImm) and int(step) == 0):
                    index = index + var * b.opaque(step)
            return BufferLoad(load.source, [index])

        values = tuple(replace_loads(expand_functions(s.value), split) for s in nest.stores)
        return Steps(values, tuple(operands), lane)

    def bind(
        self, b: KernelBuilder, point: Values, bound: dict[StructuralKey, Expr]
    ) -> dict[tirx.Var, Expr]:
        """Compute the addresses of one point of a tile; equal ones once, in `bound`."""
        result = {}
        for operand in self.operands:
            start = substitute(operand.start, point)
            key = StructuralKey(start)
            if key not in bound:
                bound[key] = b.opaque(start)
            result[operand.base] = bound[key]
        return result
