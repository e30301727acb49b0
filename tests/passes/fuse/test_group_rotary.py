"""Halves of rows turned by angles become one group, with copies of the views before them."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.layout import KERNEL, ROTATE
from relaxc.passes.fuse.group_rotary import GroupRotary


class Library:
    def __init__(self, takes: bool = True) -> None:
        self.takes = takes

    def has_rotary(self, func: relax.Function) -> bool:
        return self.takes


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((3, 16), "float32"),
        c: R.Tensor((3, 8), "float32"),
        s: R.Tensor((3, 8), "float32"),
    ) -> R.Tensor((2, 3, 8), "float32"):
        with R.dataflow():
            heads = R.reshape(x, R.shape([3, 2, 8]))
            q = R.permute_dims(heads, axes=[1, 0, 2])
            low = R.strided_slice(q, (2,), (0,), (4,), (1,), assume_inbound=True)
            high = R.strided_slice(q, (2,), (4,), (8,), (1,), assume_inbound=True)
            minus = R.negative(high)
            turned = R.concat((minus, low), axis=2)
            a = R.multiply(c, q)
            b = R.multiply(turned, s)
            gv = R.add(b, a)
            R.output(gv)
        return gv


@I.ir_module
class OtherHalves:
    @R.function
    def main(
        q: R.Tensor((3, 8), "float32"),
        c: R.Tensor((3, 8), "float32"),
        s: R.Tensor((3, 8), "float32"),
    ) -> R.Tensor((3, 8), "float32"):
        with R.dataflow():
            low = R.strided_slice(q, (1,), (0,), (4,), (1,), assume_inbound=True)
            minus = R.negative(low)
            turned = R.concat((minus, low), axis=1)
            a = R.multiply(q, c)
            b = R.multiply(turned, s)
            gv = R.add(a, b)
            R.output(gv)
        return gv


def _groups(mod: tvm.IRModule) -> list[list[str]]:
    return [
        [b.value.op.name.removeprefix("relax.") for b in func.body.blocks[0].bindings]
        for func in mod.functions.values()
        if func.attrs and func.attrs.get(KERNEL) == ROTATE
    ]


def test_all_of_it_becomes_one_group() -> None:
    after = GroupRotary(Library()).apply(Before)
    names = "reshape permute_dims strided_slice strided_slice negative concat multiply multiply add"
    assert _groups(after) == [names.split()]
    assert len(after["main"].body.blocks[0].bindings) == 1


@pytest.mark.parametrize(
    ("module", "library"), [(OtherHalves, Library()), (Before, Library(takes=False))]
)
def test_what_is_left_alone(module: tvm.IRModule, library: Library) -> None:
    after = GroupRotary(library).apply(module)
    tvm.ir.assert_structural_equal(after, module)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(s).astype(np.float32) for s in ((3, 16), (3, 8), (3, 8))]
    after = GroupRotary(Library()).apply(Before)
    np.testing.assert_array_equal(execute(after, *args), execute(Before, *args))
