"""Symbols become parameters in one order."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from relaxc.passes.fuse.sort_symbols import SortSymbols


@I.ir_module
class Before:
    @T.prim_func(private=True, s_tir=True)
    def f(
        x: T.Buffer((T.int64(3),), "float32"),
        w: T.int64,
        h: T.int64,
        y: T.Buffer((T.int64(3),), "float32"),
    ):
        for i in range(T.int64(3)):
            y[i] = x[i] * T.Cast("float32", w - h)

    @R.function
    def main(x: R.Tensor((3,), "float32"), like: R.Tensor(("h", "w"), "float32")) -> R.Tensor(
        (3,), "float32"
    ):
        h, w = T.int64(), T.int64()
        cls = Before
        with R.dataflow():
            gv = R.call_tir(cls.f, (x, w, h), out_ty=R.Tensor((3,), "float32"))
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @T.prim_func(private=True, s_tir=True)
    def f(
        x: T.Buffer((T.int64(3),), "float32"),
        h: T.int64,
        w: T.int64,
        y: T.Buffer((T.int64(3),), "float32"),
    ):
        for i in range(T.int64(3)):
            y[i] = x[i] * T.Cast("float32", w - h)

    @R.function
    def main(x: R.Tensor((3,), "float32"), like: R.Tensor(("h", "w"), "float32")) -> R.Tensor(
        (3,), "float32"
    ):
        h, w = T.int64(), T.int64()
        cls = Expected
        with R.dataflow():
            gv = R.call_tir(cls.f, (x, h, w), out_ty=R.Tensor((3,), "float32"))
            R.output(gv)
        return gv


def test_parameters_and_arguments_move_together(golden: Callable[..., None]) -> None:
    golden(SortSymbols(), Before, Expected)


def test_what_is_sorted_stays(golden: Callable[..., None]) -> None:
    golden(SortSymbols(), Expected, Expected)
