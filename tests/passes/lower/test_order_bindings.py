"""Bindings follow the casts that define their symbols."""

# TVMScript's annotations are values, which mypy cannot read.
# mypy: disable-error-code="valid-type"

from __future__ import annotations

from collections.abc import Callable

from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from relaxc.passes.lower.order_bindings import OrderBindings


@I.ir_module
class Ordered:
    @R.function
    def main(x: R.Tensor((1,), "float32"), s: R.Tensor((1,), "int64")) -> R.Tensor(ndim=1):
        n = T.int64()
        with R.dataflow():
            shape: R.Shape(ndim=1) = R.tensor_to_shape(s)
            _bound: R.Shape([n]) = R.match_cast(shape, R.Shape([n]))
            wide: R.Tensor((n,), "float32") = R.broadcast_to(x, R.shape([n]))
            lv: R.Tensor((n,), "float32") = R.negative(wide)
            R.output(lv)
        return lv


def test_what_is_in_order_stays(golden: Callable[..., None]) -> None:
    golden(OrderBindings(), Ordered, Ordered)
