"""The end of a kernel in CUDA C++: elementwise operators on neighbouring results, then a store."""

from __future__ import annotations

from typing import Any

from tvm import relax

from relaxc.layout import Layout
from relaxc.targets.cuda.kernels.expressions import statements
from relaxc.targets.cuda.kernels.frame import Frame
from relaxc.targets.llvm.kernels.constants import is_constant
from relaxc.targets.llvm.kernels.domain import Domain
from relaxc.targets.llvm.kernels.elementwise import Epilogue


def vector_width(columns: int, result: Layout) -> int:
    """How many neighbours 16 bytes of the result hold; 1 where rows are no whole vectors."""
    # Of bytes, half as many: so many neighbours a thread has of its sums.
    width = 4 if result.element == "float32" else 8
    return width if columns % width == 0 else 1


def epilogue_lines(
    epilogue: Epilogue, domain: Domain, frame: Frame, rescale: tuple[str, str] | None = None
) -> list[str]:
    """C++ on `float v[V]`, the results of row `m` at columns `n`, the first at index `at`.

    Operands have the result's shape, or differ by column alone.

    Args:
        epilogue: the operators.
        domain: the result's shape.
        frame: declares operands.
        rescale: pointers of a factor and an offset per column, which make sums of integers real.
    """
    lines = []
    if rescale is not None:
        for name, pointer in zip(("factor", "offset"), rescale):
            lines.append(f"float {name}[V]; read<V>({name}, {pointer} + n);")
        lines += [
            "#pragma unroll",
            "for (int e = 0; e < V; ++e) v[e] = v[e] * factor[e] + offset[e];",
        ]
    values: dict[Any, str] = {}
    for i, operand in enumerate(epilogue.operands):
        pointer = frame.pointer(operand.expr)
        place = {"full": "at", "channel": "n"}[str(domain.broadcasting(operand.shape))]
        read = "read" if is_constant(operand.expr) else "read_fresh"
        lines.append(f"float o{i}[V]; {read}<V>(o{i}, {pointer} + {place});")
        values[operand.expr] = f"o{i}[e]"
    body, result = statements(
        epilogue.bindings, {epilogue.start: "v[e]"}, lambda arg, _call: _find(values, arg)
    )
    lines += ["#pragma unroll", "for (int e = 0; e < V; ++e) {"]
    lines += [f"  {line}" for line in body]
    return [*lines, f"  v[e] = {result};", "}", "write<V>(y + at, v);"]


def _find(values: dict[Any, str], expr: relax.Expr) -> str:
    return next(name for known, name in values.items() if known.same_as(expr))
