"""Halves are computed as float32."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.precision.widen_halves import WidenHalves

TABLE = np.arange(8, dtype=np.float16).reshape(4, 2)


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((4, 2), "float16"), i: R.Tensor((4,), "int64")):
        with R.dataflow():
            t = R.take(R.const(TABLE), i, axis=0)
            a = R.add(x, t)
            b = R.astype(a, "float32")
            c = R.tanh(b)
            d = R.astype(c, "float16")
            e = R.greater(d, x)
            f = R.nn.relu(d)
            gv = (f, e, b)
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((4, 2), "float16"), i: R.Tensor((4,), "int64")):
        with R.dataflow():
            t = R.take(R.const(TABLE), i, axis=0)
            x1 = R.astype(x, "float32")
            t1 = R.astype(t, "float32")
            a = R.add(x1, t1)
            c = R.tanh(a)
            e = R.greater(c, x1)
            f = R.nn.relu(c)
            f1 = R.astype(f, "float16")
            gv = (f1, e, a)
            R.output(gv)
        return gv


@I.ir_module
class Singles:
    @R.function
    def main(x: R.Tensor((4, 2), "float32")):
        with R.dataflow():
            a = R.astype(x, "int64")
            gv = R.nn.relu(x)
            b = (gv, a)
            R.output(b)
        return b


def test_halves_are_converted_where_they_come_in_and_leave(golden: Callable[..., None]) -> None:
    golden(WidenHalves(), Before, Expected)


def test_other_types_are_left_alone(golden: Callable[..., None]) -> None:
    golden(WidenHalves(), Singles, Singles)
