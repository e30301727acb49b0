"""What is stored as bfloat16, and what stays float32."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.layout import ELEMENTS, KERNEL
from relaxc.passes.precision.choose_precision import ChoosePrecision


class Library:
    """Products want their data as bfloat16, other kernels read either."""

    widens_halves = False

    def elements(self, func: relax.Function) -> Sequence[str | None]:
        rest = [None] * (len(func.params) - 1)
        return ["bfloat16" if self.is_product(func) else None, *rest]

    def can_round_result(self, func: relax.Function) -> bool:
        return str(func.attrs[KERNEL]) == "norm"

    def is_product(self, func: relax.Function) -> bool:
        return str(func.attrs[KERNEL]) == "matmul"

    def keeps_residuals(self, func: relax.Function) -> bool:
        return str(func.attrs[KERNEL]) == "add"


@I.ir_module
class Before:
    @R.function(private=True)
    def angle(p: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "elementwise"})
        return R.multiply(p, R.const(0.5, "float32"))

    @R.function(private=True)
    def double(p: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "elementwise"})
        return R.add(p, p)

    @R.function(private=True)
    def first(x: R.Tensor((4, 4), "float32"), a: R.Tensor((4, 4), "float32")) -> R.Tensor(
        (4, 4), "float32"
    ):
        R.func_attr({"kernel": "matmul"})
        return R.matmul(x, a)

    @R.function(private=True)
    def norm(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "norm"})
        return R.nn.softmax(x)

    @R.function(private=True)
    def last(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "matmul"})
        return R.matmul(x, x)

    @R.function
    def main(x: R.Tensor((4, 4), "float32"), p: R.Tensor((4, 4), "float32")) -> R.Tensor(
        (4, 2), "float32"
    ):
        cls = Before
        with R.dataflow():
            lv = cls.angle(p)
            lv1 = cls.double(lv)
            lv2 = cls.first(x, lv1)
            lv3 = cls.norm(lv2)
            lv4 = R.reshape(lv3, (4, 4))
            gv = cls.last(lv4)
            R.output(gv)
        return gv


EXPECTED = {
    # Positions that no product has touched stay exact; so does what leaves the model.
    "angle": ["float32", "float32"],
    "double": ["float32", "float32"],
    "first": ["bfloat16", "float32", "bfloat16"],
    "norm": ["bfloat16", "bfloat16"],
    "last": ["bfloat16", "float32"],
}


def test_rewrite(golden: Callable) -> None:
    expected = Before.clone()
    for name, elements in EXPECTED.items():
        expected[name] = expected[name].with_attr(ELEMENTS, elements)
    golden(ChoosePrecision(Library()), Before, expected)


@I.ir_module
class Residual:
    @R.function(private=True)
    def first(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "matmul"})
        return R.matmul(x, x)

    @R.function(private=True)
    def inner(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "matmul"})
        return R.matmul(x, x)

    @R.function(private=True)
    def sum(x: R.Tensor((4, 4), "float32"), r: R.Tensor((4, 4), "float32")) -> R.Tensor(
        (4, 4), "float32"
    ):
        R.func_attr({"kernel": "add"})
        return R.add(x, r)

    @R.function(private=True)
    def last(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "matmul"})
        return R.matmul(x, x)

    @R.function
    def main(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = Residual
        with R.dataflow():
            lv = cls.first(x)
            lv1 = cls.inner(lv)
            lv2 = cls.sum(lv1, R.reshape(lv, (4, 4)))
            gv = cls.last(lv2)
            R.output(gv)
        return gv


def test_sums_of_residuals_stay_float32() -> None:
    after = ChoosePrecision(Library()).apply(Residual)
    assert list(after["first"].attrs[ELEMENTS]) == ["bfloat16", "float32"]
    assert list(after["sum"].attrs[ELEMENTS]) == ["float32", "float32", "bfloat16"]


@I.ir_module
class Normalized:
    @R.function(private=True)
    def norm(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "norm"})
        return R.nn.softmax(x)

    @R.function(private=True)
    def another(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "norm"})
        return R.nn.softmax(x)

    @R.function(private=True)
    def product(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "matmul"})
        return R.matmul(x, x)

    @R.function
    def main(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = Normalized
        with R.dataflow():
            lv = cls.norm(x)
            lv1 = cls.product(lv)
            lv2 = cls.another(lv1)
            lv3 = cls.product(lv2)
            gv = R.add(lv3, R.reshape(lv2, (4, 4)))
            R.output(gv)
        return gv


class EightBits(Library):
    """Products want their data as floats of eight bits."""

    def elements(self, func: relax.Function) -> Sequence[str | None]:
        return ["e4m3" if self.is_product(func) else None]


def test_norms_round_what_only_products_read() -> None:
    after = ChoosePrecision(EightBits(), "float16").apply(Normalized)
    assert list(after["norm"].attrs[ELEMENTS]) == ["float32", "e4m3"]
    # The reshape reads it, too.
    assert list(after["another"].attrs[ELEMENTS])[-1] == "float16"


@I.ir_module
class ReadOutside:
    @R.function(private=True)
    def first(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"kernel": "matmul"})
        return R.matmul(x, x)

    @R.function
    def main(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = ReadOutside
        with R.dataflow():
            lv = cls.first(x)
            gv = R.sin(lv)
            R.output(gv)
        return gv


def test_what_operators_outside_of_groups_read_stays_float32() -> None:
    after = ChoosePrecision(Library()).apply(ReadOutside)
    assert list(after["first"].attrs[ELEMENTS]) == ["bfloat16", "float32"]


@I.ir_module
class Concatenated:
    @R.function(private=True)
    def product(x: R.Tensor((1, 16, 4, 4), "float32")) -> R.Tensor((1, 16, 4, 4), "float32"):
        R.func_attr({"kernel": "matmul"})
        return R.matmul(x, x)

    @R.function(private=True)
    def join(
        a: R.Tensor((1, 16, 4, 4), "float32"), b: R.Tensor((1, 16, 4, 4), "float32")
    ) -> R.Tensor((1, 32, 4, 4), "float32"):
        R.func_attr({"kernel": "concat"})
        return R.concat((a, b), axis=1)

    @R.function
    def main(x: R.Tensor((1, 16, 4, 4), "float32")) -> R.Tensor((1, 32, 4, 4), "float32"):
        cls = Concatenated
        with R.dataflow():
            lv = cls.product(x)
            gv = cls.join(lv, x)
            R.output(gv)
        return gv


def test_tensors_that_share_a_buffer_are_stored_alike() -> None:
    after = ChoosePrecision(Library()).apply(Concatenated)
    assert list(after["product"].attrs[ELEMENTS]) == ["bfloat16", "bfloat16"]
    assert list(after["join"].attrs[ELEMENTS]) == ["bfloat16"] * 3


def test_a_module_without_groups_is_left_alone() -> None:
    plain = ReadOutside.clone()
    plain["first"] = plain["first"].without_attr(KERNEL)
    tvm.ir.assert_structural_equal(ChoosePrecision(Library()).apply(plain), plain)
