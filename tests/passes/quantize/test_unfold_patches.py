"""Convolutions of patches become products."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import pytest
from tvm import IRModule, relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.quantize.unfold_patches import UnfoldPatches

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((5, 3, 2, 4)).astype(np.float32)
MATRIX = np.ascontiguousarray(WEIGHT.reshape(5, -1).T)
DATA = RNG.standard_normal((2, 3, 6, 8)).astype(np.float32)


def convolution(weight: np.ndarray = WEIGHT, shape=DATA.shape, **options) -> IRModule:
    options = {"strides": (2, 4)} | options
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.nn.conv2d(x, relax.const(weight), **options), "y")
        builder.emit_func_output(out)
    return builder.get()


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((2, 3, 6, 8), "float32")) -> R.Tensor((2, 5, 3, 2), "float32"):
        with R.dataflow():
            split = R.reshape(x, (2, 3, 3, 2, 2, 4))
            moved = R.permute_dims(split, [0, 2, 4, 1, 3, 5])
            table = R.reshape(moved, (2, 6, 24))
            product = R.matmul(table, R.const(MATRIX))
            turned = R.permute_dims(product, [0, 2, 1])
            y = R.reshape(turned, (2, 5, 3, 2))
            R.output(y)
        return y


def test_patches_become_rows(golden) -> None:
    golden(UnfoldPatches(group=8), convolution(), Expected)


def test_the_product_belongs_to_the_node() -> None:
    bindings = UnfoldPatches().apply(convolution())["main"].body.blocks[0].bindings
    assert [b.var.name for b in bindings] == ["y.0", "y.1", "y.2", "y.3", "y.4", "y"]


@pytest.mark.parametrize("shape", [DATA.shape, (tirx.Var("n", "int64"), 3, 6, 8)])
def test_same_numbers(execute, shape) -> None:
    before = convolution(shape=shape)
    after = UnfoldPatches().apply(before)
    assert "matmul" in after.script()
    np.testing.assert_allclose(execute(after, DATA), execute(before, DATA), 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("pass_", "before"),
    [
        (UnfoldPatches(), convolution(strides=(2, 2))),
        (UnfoldPatches(), convolution(padding=(0, 4))),
        (UnfoldPatches(), convolution(WEIGHT[:3, :1], groups=3)),
        (UnfoldPatches(), convolution(WEIGHT[:, :, ::2, ::4], strides=(1, 1))),
        (UnfoldPatches(), convolution(WEIGHT[:, :, :, ::2], dilation=(1, 3), strides=(2, 2))),
        (UnfoldPatches(), convolution(shape=(2, 3, 7, 8))),
        (UnfoldPatches(), convolution(shape=(2, 3, tirx.Var("h", "int64"), 8))),
        (UnfoldPatches(group=16), convolution()),
        (UnfoldPatches(exclude=("y",)), convolution()),
    ],
    ids=[
        "overlap",
        "padding",
        "groups",
        "pixels",
        "dilation",
        "rest",
        "symbol",
        "group",
        "excluded",
    ],
)
def test_what_stays(golden, pass_: UnfoldPatches, before: IRModule) -> None:
    golden(pass_, before, before)
