"""Gathers of a volume's planes become one group, with copies of the views around them."""

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

from relaxc.passes.fuse.group_planes import GroupPlanes


class Library:
    """Takes everything, unless told otherwise."""

    def __init__(self, takes: bool = True) -> None:
        self.takes = takes
        self.seen: list[relax.Function] = []

    def has_planes(self, func: relax.Function) -> bool:
        self.seen.append(func)
        return self.takes


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((1, 2, 3, 4, 5), "float32")) -> R.Tensor((2, 4, 4, 5), "float32"):
        with R.dataflow():
            v = R.permute_dims(x, axes=[0, 2, 1, 3, 4])
            m = R.reshape(v, R.shape([3, 2, 4, 5]))
            p = R.reshape(m, R.shape([1, 3, 2, 4, 5]))
            z = R.nn.pad(p, pad_width=[0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            t = R.take(z, R.const([3, 0, 1, 2], "int64"), axis=1)
            s = R.reshape(t, R.shape([1, 2, 4, 4, 5]))
            i = R.reshape(s, R.shape([2, 4, 4, 5]))
            gv = R.nn.relu(i)
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function(private=True)
    def planes_0(x: R.Tensor((1, 2, 3, 4, 5), "float32")) -> R.Tensor((2, 4, 4, 5), "float32"):
        R.func_attr({"kernel": "planes"})
        with R.dataflow():
            v = R.permute_dims(x, axes=[0, 2, 1, 3, 4])
            m = R.reshape(v, R.shape([3, 2, 4, 5]))
            p = R.reshape(m, R.shape([1, 3, 2, 4, 5]))
            z = R.nn.pad(p, pad_width=[0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            t = R.take(z, R.const([3, 0, 1, 2], "int64"), axis=1)
            s = R.reshape(t, R.shape([1, 2, 4, 4, 5]))
            i = R.reshape(s, R.shape([2, 4, 4, 5]))
            R.output(i)
        return i

    @R.function
    def main(x: R.Tensor((1, 2, 3, 4, 5), "float32")) -> R.Tensor((2, 4, 4, 5), "float32"):
        with R.dataflow():
            i = Expected.planes_0(x)
            gv = R.nn.relu(i)
            R.output(gv)
        return gv


@I.ir_module
class ChosenAtRunTime:
    @R.function
    def main(x: R.Tensor((3, 2, 4, 5), "float32"), planes: R.Tensor((4,), "int64")) -> R.Tensor(
        (2, 4, 4, 5), "float32"
    ):
        with R.dataflow():
            p = R.reshape(x, R.shape([1, 3, 2, 4, 5]))
            t = R.take(p, planes, axis=1)
            s = R.reshape(t, R.shape([1, 2, 4, 4, 5]))
            gv = R.reshape(s, R.shape([2, 4, 4, 5]))
            R.output(gv)
        return gv


@I.ir_module
class Quantized:
    @R.function
    def main(x: R.Tensor((3, 2, 4, 5), "float32")) -> R.Tensor((2, 4, 4, 5), "float32"):
        with R.dataflow():
            p = R.reshape(x, R.shape([1, 3, 2, 4, 5]))
            t = R.take(p, R.const([2, 0, 1, 2], "int64"), axis=1)
            t1i = R.quantize(t, R.const(0.25, "float32"), R.const(7, "uint8"), out_dtype="uint8")
            t1 = R.dequantize(t1i, R.const(0.25, "float32"), R.const(7, "uint8"))
            s = R.reshape(t1, R.shape([1, 2, 4, 4, 5]))
            s1i = R.quantize(s, R.const(0.25, "float32"), R.const(7, "uint8"), out_dtype="uint8")
            s1 = R.dequantize(s1i, R.const(0.25, "float32"), R.const(7, "uint8"))
            i = R.reshape(s1, R.shape([2, 4, 4, 5]))
            i1i = R.quantize(i, R.const(0.25, "float32"), R.const(7, "uint8"), out_dtype="uint8")
            i1 = R.dequantize(i1i, R.const(0.25, "float32"), R.const(7, "uint8"))
            gv = R.nn.relu(i1)
            R.output(gv)
        return gv


@I.ir_module
class RoundedTwice:
    @R.function
    def main(x: R.Tensor((3, 2, 4, 5), "float32")) -> R.Tensor((2, 4, 4, 5), "uint8"):
        with R.dataflow():
            p = R.reshape(x, R.shape([1, 3, 2, 4, 5]))
            t = R.take(p, R.const([2, 0, 1, 2], "int64"), axis=1)
            q = R.quantize(t, R.const(0.25, "float32"), R.const(7, "uint8"), out_dtype="uint8")
            d = R.dequantize(q, R.const(0.25, "float32"), R.const(7, "uint8"))
            s = R.reshape(d, R.shape([2, 4, 4, 5]))
            gv = R.quantize(s, R.const(0.5, "float32"), R.const(7, "uint8"), out_dtype="uint8")
            R.output(gv)
        return gv


def test_rewrites(golden: Callable[..., None]) -> None:
    golden(GroupPlanes(Library()), Before, Expected)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
    after = GroupPlanes(Library()).apply(Before)
    np.testing.assert_array_equal(execute(after, x), execute(Before, x))


def test_rounds_once(execute: Callable[..., np.ndarray]) -> None:
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype(np.float32)
    after = GroupPlanes(Library()).apply(Quantized)
    main = [b.value.op for b in after["main"].body.blocks[0].bindings]
    assert isinstance(main[0], tvm.ir.GlobalVar)
    assert [str(op.name) for op in main[1:]] == [
        "relax.quantize",
        "relax.dequantize",
        "relax.nn.relu",
    ]
    np.testing.assert_array_equal(execute(after, x), execute(Quantized, x))


def test_leaves_the_transpose_outside_where_the_target_wants_that() -> None:
    library = Library(takes=False)
    after = GroupPlanes(library).apply(Before)
    tvm.ir.assert_structural_equal(after, Before)
    assert [func.params[0].ty.ndim for func in library.seen] == [5, 4]


@pytest.mark.parametrize("module", [ChosenAtRunTime, RoundedTwice])
def test_leaves_alone(golden: Callable[..., None], module: tvm.IRModule) -> None:
    golden(GroupPlanes(Library()), module, module)
