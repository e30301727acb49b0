"""Shape functions are written in one order."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import tvm
from tvm.script import ir as I
from tvm.script import tirx as T

from relaxc.targets.shape_functions import sort_shape_functions


@I.ir_module
class Before:
    @T.prim_func(private=True, s_tir=True)
    def shape_func(H: T.Buffer((T.int64(4),), "int64")):
        H[T.int64(3)] = T.int64(48) * H[T.int64(0)]
        H[T.int64(1)] = T.int64(4) * H[T.int64(0)]
        H[T.int64(2)] = T.int64(7) * H[T.int64(0)]


@I.ir_module
class Expected:
    @T.prim_func(private=True, s_tir=True)
    def shape_func(H: T.Buffer((T.int64(4),), "int64")):
        H[T.int64(1)] = T.int64(4) * H[T.int64(0)]
        H[T.int64(2)] = T.int64(7) * H[T.int64(0)]
        H[T.int64(3)] = T.int64(48) * H[T.int64(0)]


def test_statements_are_sorted_by_slot() -> None:
    text = Before.script()
    after = sort_shape_functions(Before)
    tvm.ir.assert_structural_equal(after, Expected)
    tvm.ir.assert_structural_equal(sort_shape_functions(after), after)
    assert Before.script() == text
