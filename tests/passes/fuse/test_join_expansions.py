"""Two groups become one where the target computes the second from rows of the first."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from virtual_machine import virtual_machine

from relaxc.layout import ELEMENTS
from relaxc.passes.fuse.join_expansions import JoinExpansions


class Library:
    """Joins whatever is of kind `a` and `b`."""

    def joins(self, first, second) -> bool:
        return (str(first.attrs["kernel"]), str(second.attrs["kernel"])) == ("a", "b")


@I.ir_module
class Before:
    @R.function(private=True)
    def wide(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        R.func_attr({"kernel": "a"})
        with R.dataflow():
            double = R.add(x, x)
            out = R.nn.relu(double)
            R.output(out)
        return out

    @R.function(private=True)
    def deep(y: R.Tensor((4,), "float32"), r: R.Tensor((4,), "float32")) -> R.Tensor(
        (4,), "float32"
    ):
        R.func_attr({"kernel": "b"})
        with R.dataflow():
            square = R.multiply(y, y)
            out = R.add(square, r)
            R.output(out)
        return out

    @R.function
    def main(x: R.Tensor((4,), "float32"), r: R.Tensor((4,), "float32")) -> R.Tensor(
        (4,), "float32"
    ):
        cls = Before
        with R.dataflow():
            lv = cls.wide(x)
            lv1 = cls.deep(lv, r)
            gv = R.negative(lv1)
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function(private=True)
    def expansion(x: R.Tensor((4,), "float32"), r: R.Tensor((4,), "float32")) -> R.Tensor(
        (4,), "float32"
    ):
        R.func_attr({"kernel": "expansion"})
        with R.dataflow():
            double = R.add(x, x)
            first = R.nn.relu(double)
            square = R.multiply(first, first)
            out = R.add(square, r)
            R.output(out)
        return out

    @R.function
    def main(x: R.Tensor((4,), "float32"), r: R.Tensor((4,), "float32")) -> R.Tensor(
        (4,), "float32"
    ):
        cls = Expected
        with R.dataflow():
            lv1 = cls.expansion(x, r)
            gv = R.negative(lv1)
            R.output(gv)
        return gv


def test_a_pair_becomes_one_group(golden) -> None:
    golden(JoinExpansions(Library()), Before, Expected)


def test_same_numbers() -> None:
    rng = np.random.default_rng(0)
    feed = [tvm.runtime.tensor(rng.standard_normal(4).astype(np.float32)) for _ in range(2)]
    results = []
    for mod in (Before, JoinExpansions(Library()).apply(Before)):
        machine = virtual_machine(mod)
        results.append(machine["main"](*feed).numpy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", ["wide", "deep"])
def test_groups_of_integers_stay(name: str) -> None:
    mod = Before.clone()
    mod[name] = mod[name].with_attr(ELEMENTS, ["uint8*1-0"] * (len(mod[name].params) + 1))
    tvm.ir.assert_structural_equal(JoinExpansions(Library()).apply(mod), mod)


def test_what_others_read_is_stored() -> None:
    @I.ir_module
    class Read:
        @R.function(private=True)
        def wide(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"kernel": "a"})
            with R.dataflow():
                out = R.nn.relu(x)
                R.output(out)
            return out

        @R.function(private=True)
        def deep(y: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"kernel": "b"})
            with R.dataflow():
                out = R.multiply(y, y)
                R.output(out)
            return out

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Read
            with R.dataflow():
                lv = cls.wide(x)
                lv1 = cls.deep(lv)
                gv = R.add(lv, lv1)
                R.output(gv)
            return gv

    tvm.ir.assert_structural_equal(JoinExpansions(Library()).apply(Read), Read)
