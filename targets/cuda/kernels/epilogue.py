"""The end of a kernel in CUDA C++: elementwise operators on neighbouring results, then a store.

Operands come from far away: those as wide as the result, and those of columns, which other
weights have pushed out of the cache since the call before. They are called into the second-level
cache before the sums are there. Where a thread has several results, wide operands of several are
asked for before the first is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from relaxc.layout import ROWS_E4M3, Layout
from relaxc.targets.cuda.kernels.byte_epilogue import Merged, Rescale
from relaxc.targets.cuda.kernels.elements import type_of
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


@dataclass(frozen=True)
class EpilogueText:
    """C++ on `float v[V]`, the results of row `m` at columns `n`, the first at index `at`.

    Attributes:
        wide: pointers and types of the operands that have the result's shape.
        columns: reads what belongs to columns alone.
        body: computes and stores; the values of such an operand are `o.` and its pointer's name.
        sum_start: with what sums of integers may begin: bits of a float of which they are a part.
        fetches: calls what belongs to columns into the second-level cache.
    """

    wide: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    body: tuple[str, ...]
    sum_start: int = 0
    fetches: tuple[str, ...] = ()

    def into(self, text: str) -> str:
        """Put it where the text says OPERANDS, FETCH_OPERANDS, LOAD_OPERANDS and EPILOGUE.

        And LOAD_COLUMNS, if several rows have them in common; else they belong to the epilogue.
        Around FETCH_OPERANDS there are `m0`, `column` and `worker`: see `fetch_ahead`.
        """
        names = [name for name, _ in self.wide]
        fields = [f"Held<V, {type_}> {name};" for name, type_ in self.wide]
        declared = ["struct Operands {", *(f"  {field}" for field in fields), "};"]
        declared.append(f"constexpr bool HAS_OPERANDS = {int(bool(names))};")
        is_apart = "LOAD_COLUMNS\n" in text
        fetch = "fetch_ahead<FETCH_ROWS, FETCH_COLUMNS, N, FETCH_THREADS>"
        for word, lines in (
            (
                "FETCH_OPERANDS",
                [f"{fetch}({name}, m0, column / (S / V), rows, worker);" for name in names]
                + list(self.fetches),
            ),
            (
                "LOAD_OPERANDS",
                [f"o.{name}.load({name} + at);" for name in names],
            ),
            ("OPERANDS", declared),
            ("LOAD_COLUMNS", self.columns),
            ("EPILOGUE", self.body if is_apart else (*self.columns, *self.body)),
        ):
            text = text.replace(f"{word}\n", "\n".join(lines) + "\n")
        return text

    def alone(self, text: str) -> str:
        """The same for a kernel that says EPILOGUE only."""
        whole = "OPERANDS\nOperands o;\nLOAD_OPERANDS\nEPILOGUE\n"
        return self.into(text.replace("EPILOGUE\n", whole))


def epilogue_text(
    epilogue: Epilogue,
    domain: Domain,
    frame: Frame,
    rescale: Rescale | None = None,
    other: relax.Var | None = None,
    scale: np.ndarray | None = None,
) -> EpilogueText:
    """Write it. Operands have the result's shape, or differ by column alone.

    Args:
        epilogue: the operators.
        domain: the result's shape.
        frame: declares operands.
        rescale: makes sums of integers real.
        other: the result of a second product, whose values are in `float w[V]`.
        scale: what sums are multiplied by, beside `row_scale`, per column; of pairs, as they lie.
    """
    columns, lines, wide, fetches = [], [], [], []

    def read_columns(name: str, pointer: str) -> None:
        columns.append(f"float {name}[V]; read<V>({name}, {pointer} + n);")
        fetches.append(f"fetch_columns<FETCH_COLUMNS, N>({pointer}, column / (S / V), worker);")

    merged = None
    if rescale is not None:
        if other is None and len(rescale.factor) % 8 == 0:
            merged = Merged.of(epilogue, domain, frame, rescale)
        scales = merged or rescale
        pointers = [frame.constant(a) for a in (scales.factor, scales.offset)]
        for name, pointer in zip(("factor", "offset"), pointers):
            read_columns(name, pointer)
    if rescale is not None and merged is None:
        lines += [
            "#pragma unroll",
            "for (int e = 0; e < V; ++e) v[e] = v[e] * factor[e] + offset[e];",
        ]
    if scale is not None:
        pointer = frame.constant(scale)
        columns.append(f"float factor[S]; read<S>(factor, {pointer} + n * (S / V));")
        lines += ["#pragma unroll", "for (int e = 0; e < S; ++e) v[e] *= row_scale * factor[e];"]
    start = 0 if rescale is None else rescale.start
    if merged is not None:
        names = [frame.pointer(expr) for expr, _ in merged.bytes]
        types = [type_of(frame.element_of(expr)) for expr, _ in merged.bytes]
        body = merged.body(names)
        wide = list(zip(names, types))
        return EpilogueText(tuple(wide), tuple(columns), tuple(body), start, fetches=tuple(fetches))
    values: dict[Any, str] = {}
    for i, operand in enumerate(epilogue.operands):
        pointer = frame.pointer(operand.expr)
        is_wide = str(domain.broadcasting(operand.shape)) == "full"
        if is_wide and not is_constant(operand.expr):
            wide.append((pointer, type_of(frame.elements[operand.expr])))
            values[operand.expr] = f"o.{pointer}[e]"
            continue
        if is_wide:
            lines.append(f"float o{i}[V]; read<V>(o{i}, {pointer} + at);")
        else:
            read_columns(f"o{i}", pointer)
        values[operand.expr] = f"o{i}[e]"
    known: dict[relax.Expr, str] = {} if other is None else {other: "w[e]"}
    body, result = statements(
        epilogue.bindings, known | {epilogue.start: "v[e]"}, lambda arg, _call: _find(values, arg)
    )
    lines += ["#pragma unroll", "for (int e = 0; e < V; ++e) {"]
    lines += [f"  {line}" for line in body]
    # Rows are rounded when the largest number of each is known.
    store = "keep(v, i);" if frame.result.element == ROWS_E4M3 else "write<V>(y + at, v);"
    lines += [f"  v[e] = {result};", "}", store]
    return EpilogueText(tuple(wide), tuple(columns), tuple(lines), start, fetches=tuple(fetches))


def _find(values: dict[Any, str], expr: relax.Expr) -> str:
    return next(name for known, name in values.items() if known.same_as(expr))
