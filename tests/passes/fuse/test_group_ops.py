"""Anchors take the elementwise operators that follow them into one group."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.layout import KERNEL
from relaxc.passes.fuse.group_ops import GroupOps

INTEGERS = np.arange(8, dtype=np.uint8).reshape(4, 2)
SCALES, ZEROS = np.arange(1, 5, dtype=np.float32), np.arange(4, dtype=np.uint8)


class Library:
    """Products are anchors; additions and activations are epilogues."""

    reads_integers = True

    def anchor(self, call: relax.Call) -> str | None:
        return "matmul" if call.op.name == "relax.matmul" else None

    def is_epilogue(self, call: relax.Call, anchor: relax.Call, kernel: str) -> bool:
        return call.op.name in ("relax.add", "relax.multiply", "relax.nn.relu", "relax.sigmoid")

    def absorbs(self, anchor: relax.Call, call: relax.Call) -> bool:
        return False

    def is_pair(self, anchor: relax.Call, other: relax.Call) -> bool:
        return False


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor(("n", 4), "float32"), w: R.Tensor((4, 4), "float32"), y: R.Tensor(("n", 4))
    ) -> R.Tensor(("n", 4), "float32"):
        with R.dataflow():
            lv = R.matmul(x, w)
            lv1 = R.sigmoid(lv)
            lv2 = R.multiply(lv, lv1)
            gv = R.add(lv2, x)
            R.output(gv)
        return gv


@I.ir_module
class ReadTwice:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), w: R.Tensor((4, 4), "float32")) -> R.Tensor(
        ("n", 4), "float32"
    ):
        with R.dataflow():
            lv = R.matmul(x, w)
            lv1 = R.nn.relu(lv)
            lv2 = R.nn.softmax(lv)
            gv = R.add(lv1, lv2)
            R.output(gv)
        return gv


@I.ir_module
class Cycle:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), w: R.Tensor((4, 4), "float32")) -> R.Tensor(
        ("n", 4), "float32"
    ):
        with R.dataflow():
            lv = R.matmul(x, w)
            lv1 = R.nn.softmax(lv)
            gv = R.add(lv, lv1)
            R.output(gv)
        return gv


def _groups(mod: tvm.IRModule) -> list[list[str]]:
    return [
        [b.value.op.name.removeprefix("relax.") for b in func.body.blocks[0].bindings]
        for _, func in mod.functions_items()
        if isinstance(func, relax.Function) and func.attrs and KERNEL in func.attrs
    ]


def test_takes_a_diamond_and_a_residual() -> None:
    after = GroupOps(Library()).apply(Before)
    relax.analysis.well_formed(after)
    assert _groups(after) == [["matmul", "sigmoid", "multiply", "add"]]
    main = after["main"].body.blocks[0].bindings
    assert len(main) == 1 and len(main[0].value.args) == 2


def test_stops_where_a_value_is_read_outside() -> None:
    after = GroupOps(Library()).apply(ReadTwice)
    assert _groups(after) == [["matmul"]]


def test_never_depends_on_itself() -> None:
    after = GroupOps(Library()).apply(Cycle)
    assert _groups(after) == [["matmul"]]


def test_keeps_names_and_its_input() -> None:
    text = Before.script()
    after = GroupOps(Library()).apply(Before)
    assert after["main"].body.blocks[0].bindings[0].var.name == "gv"
    assert Before.script() == text


@I.ir_module
class Quantized:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32")) -> R.Tensor(("n", 2), "float32"):
        with R.dataflow():
            d = R.dequantize(R.const(INTEGERS), R.const(SCALES), R.const(ZEROS), axis=0)
            r = R.reshape(d, (2, 4))
            w = R.permute_dims(r)
            lv = R.matmul(x, w)
            gv = R.nn.relu(lv)
            R.output(gv)
        return gv


def test_weights_come_along_as_integers() -> None:
    after = GroupOps(Library()).apply(Quantized)
    assert _groups(after) == [["dequantize", "reshape", "permute_dims", "matmul", "nn.relu"]]
    assert len(after["main"].body.blocks[0].bindings) == 1


@I.ir_module
class ConstantsOnly:
    @R.function
    def main(x: R.Tensor((2, 4), "float32")) -> R.Tensor((2, 4), "float32"):
        with R.dataflow():
            lv = R.matmul(R.const(np.ones((2, 3), np.float32)), R.const(np.ones((3, 4), "f4")))
            gv = R.add(x, lv)
            R.output(gv)
        return gv


def test_products_of_constants_are_left_alone() -> None:
    tvm.ir.assert_structural_equal(GroupOps(Library()).apply(ConstantsOnly), ConstantsOnly)


@I.ir_module
class QuantizedSum:
    @R.function
    def main(x: R.Tensor((4, 2), "float32")) -> R.Tensor((4, 2), "float32"):
        with R.dataflow():
            d = R.dequantize(R.const(INTEGERS), R.const(SCALES), R.const(ZEROS), axis=0)
            gv = R.nn.softmax(R.add(x, d))
            R.output(gv)
        return gv


def test_integers_that_are_not_weights_are_dequantized_before() -> None:
    class Sums(Library):
        def anchor(self, call: relax.Call) -> str | None:
            return "elementwise" if call.op.name == "relax.add" else None

    after = GroupOps(Sums()).apply(QuantizedSum)
    assert _groups(after) == [["add"]]
    assert after["main"].body.blocks[0].bindings[0].value.op.name == "relax.dequantize"


def test_kernels_of_floats_get_floats() -> None:
    library = Library()
    library.reads_integers = False
    after = GroupOps(library).apply(Quantized)
    assert _groups(after) == [["matmul", "nn.relu"]]
    ops = [b.value.op for b in after["main"].body.blocks[0].bindings[:-1]]
    assert [op.name for op in ops] == [
        f"relax.{n}" for n in ("dequantize", "reshape", "permute_dims")
    ]


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((3, 4), (4, 4)))
    after = GroupOps(Library()).apply(ReadTwice)
    np.testing.assert_allclose(execute(after, x, w), execute(ReadTwice, x, w), rtol=1e-6)


class Gates(Library):
    """Products take norms of their rows, and come in pairs."""

    def anchor(self, call: relax.Call) -> str | None:
        known = {"relax.matmul": "matmul", "relax.nn.rms_norm": "norm"}
        return known.get(call.op.name)

    def absorbs(self, anchor: relax.Call, call: relax.Call) -> bool:
        return anchor.op.name == "relax.matmul" and call.op.name == "relax.nn.rms_norm"

    def is_pair(self, anchor: relax.Call, other: relax.Call) -> bool:
        return other.op.name == "relax.matmul"


@I.ir_module
class Gated:
    @R.function
    def main(
        x: R.Tensor((3, 4), "float32"),
        g: R.Tensor((4,), "float32"),
        w1: R.Tensor((4, 4), "float32"),
        w2: R.Tensor((4, 4), "float32"),
    ) -> R.Tensor((3, 4), "float32"):
        with R.dataflow():
            h = R.nn.rms_norm(x, g, axes=[-1])
            a = R.matmul(h, w1)
            s = R.sigmoid(a)
            b = R.matmul(h, w2)
            y = R.multiply(s, b)
            R.output(y)
        return y


@I.ir_module
class ReadByOthers:
    @R.function
    def main(
        x: R.Tensor((3, 4), "float32"),
        g: R.Tensor((4,), "float32"),
        w1: R.Tensor((4, 4), "float32"),
        w2: R.Tensor((4, 4), "float32"),
    ) -> R.Tuple(R.Tensor((3, 4), "float32"), R.Tensor((3, 4), "float32")):
        with R.dataflow():
            h = R.nn.rms_norm(x, g, axes=[-1])
            a = R.matmul(h, w1)
            b = R.matmul(h, w2)
            R.output(a, b)
        return (a, b)


def test_a_norm_and_two_products_are_one_group() -> None:
    after = GroupOps(Gates()).apply(Gated)
    assert _groups(after) == [["nn.rms_norm", "matmul", "sigmoid", "matmul", "multiply"]]


def test_products_that_nothing_joins_stay_apart() -> None:
    after = GroupOps(Gates()).apply(ReadByOthers)
    assert sorted(_groups(after)) == [["matmul"], ["matmul"], ["nn.rms_norm"]]


def test_pairs_compute_the_same(execute: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(s).astype(np.float32) for s in ((3, 4), (4,), (4, 4), (4, 4))]
    after = GroupOps(Gates()).apply(Gated)
    np.testing.assert_allclose(execute(after, *args), execute(Gated, *args), rtol=1e-6)
