"""Convolutions over lines and volumes become convolutions over maps."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from builders import onnx_model
from kernels import TARGETS, check_model
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.frontend.importer import from_onnx
from relaxc.passes.canonicalize.flatten_maps import FlattenMaps
from relaxc.passes.quantize.exclusion import node_of


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 3, 9), "float32")) -> R.Tensor(("n", 1, 5), "float32"):
        with R.dataflow():
            lv = R.nn.conv1d(x, R.const([[[1.0], [2.0], [3.0]]]), strides=[2], padding=[0, 0])
            lv1 = R.add(lv, R.const([[[4.0]]]))
            gv = R.nn.relu(lv1)
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor(("n", 3, 9), "float32")) -> R.Tensor(("n", 1, 5), "float32"):
        with R.dataflow():
            lv = R.expand_dims(x, axis=[2])
            lv_2d = R.nn.conv2d(
                lv, R.const([[[[1.0]], [[2.0]], [[3.0]]]]), strides=[1, 2], padding=[0, 0, 0, 0]
            )
            lv1_2d = R.add(lv_2d, R.const([[[[4.0]]]]))
            gv_2d = R.nn.relu(lv1_2d)
            gv = R.squeeze(gv_2d, axis=[2])
            R.output(gv)
        return gv


@I.ir_module
class OpenLength:
    @R.function
    def main(x: R.Tensor((1, 3, "w"), "float32")) -> R.Tensor((1, 1, "w"), "float32"):
        with R.dataflow():
            gv = R.nn.conv1d(x, R.const([[[1.0], [2.0], [3.0]]]), strides=[1], padding=[0, 0])
            R.output(gv)
        return gv


@I.ir_module
class Residual:
    @R.function
    def main(x: R.Tensor((1, 3, 9), "float32"), r: R.Tensor((1, 1, 9), "float32")) -> R.Tensor(
        (1, 1, 9), "float32"
    ):
        with R.dataflow():
            lv = R.nn.conv1d(x, R.const([[[1.0], [2.0], [3.0]]]))
            lv1 = R.nn.leakyrelu(lv, alpha=0.5)
            gv = R.add(r, lv1)
            R.output(gv)
        return gv


@I.ir_module
class ResidualExpected:
    @R.function
    def main(x: R.Tensor((1, 3, 9), "float32"), r: R.Tensor((1, 1, 9), "float32")) -> R.Tensor(
        (1, 1, 9), "float32"
    ):
        with R.dataflow():
            lv = R.expand_dims(x, axis=[2])
            lv_2d = R.nn.conv2d(lv, R.const([[[[1.0]], [[2.0]], [[3.0]]]]), padding=[0, 0, 0, 0])
            lv1_2d = R.nn.leakyrelu(lv_2d, alpha=0.5)
            lv2 = R.expand_dims(r, axis=[2])
            gv_2d = R.add(lv2, lv1_2d)
            gv = R.squeeze(gv_2d, axis=[2])
            R.output(gv)
        return gv


def test_rewrites(golden: Callable[..., None]) -> None:
    golden(FlattenMaps(), Before, Expected)


def test_other_operands_become_two_dimensional(golden: Callable[..., None]) -> None:
    golden(FlattenMaps(), Residual, ResidualExpected)


def test_every_binding_has_a_name_of_its_own() -> None:
    """Quantization looks for the data of layers by their names."""
    model = onnx_model(
        """g (float[2,3,9] x, float[n,3,4,5,6] v) => (float[2,4,9] y, float[n,3,4,5,6] z) {
            [one] a = Conv (x, u, c)  t = Softmax <axis=1> (a)  [two] y = Conv (t, u)
            [three] z = Conv <pads=[1,1,1,1,1,1]> (v, w)
        }""",
        u=np.ones((3, 3, 1), np.float32),
        c=np.ones(3, np.float32),
        w=np.ones((3, 3, 3, 3, 3), np.float32),
    )
    after = FlattenMaps().apply(from_onnx(model).mod)
    names = [str(b.var.name) for block in after["main"].body.blocks for b in block.bindings]
    assert sum("conv2d" in str(line) for line in after["main"].script().splitlines()) == 3
    assert len(set(names)) == len(names)
    convolutions = [
        node_of(b)
        for b in after["main"].body.blocks[0].bindings
        if getattr(b.value, "op", None) == tvm.ir.Op.get("relax.nn.conv2d")
    ]
    assert convolutions == ["one", "two", "three"]


def test_leaves_symbolic_lengths_alone(golden: Callable[..., None]) -> None:
    golden(FlattenMaps(), OpenLength, OpenLength)


def test_same_numbers(execute: Callable[..., np.ndarray]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 9)).astype(np.float32)
    after = FlattenMaps().apply(Before)
    np.testing.assert_allclose(execute(after, x), execute(Before, x), rtol=1e-6)


# input and weight shape, kernel, operator with its attributes
CASES = [
    ("2,12,30", (21, 4, 5), "conv2d_banded", "Conv <group=3, strides=[2], pads=[1,4]>"),
    ("n,12,30", (12, 5, 4), "conv2d_transpose", "ConvTranspose <strides=[3], pads=[1,0]>"),
    ("2,5,6,7,8", (9, 5, 3, 3, 3), "conv2d_direct", "Conv <strides=[2,1,2], pads=[1,1,1,1,1,1]>"),
    ("n,6,4,7,8", (6, 1, 3, 1, 2), "conv2d_depthwise", "Conv <group=6, pads=[2,0,0,3,0,0]>"),
    (
        "n,5,4,7,8",
        (5, 7, 3, 2, 2),
        "conv2d_transpose",
        "ConvTranspose <strides=[2,2,1], output_padding=[1,0,0]>",
    ),
    ("2,6,2,5,5", (6, 2, 1, 2, 2), "conv2d_transpose", "ConvTranspose <strides=[2,1,1], group=3>"),
    ("n,4,17,1,3", (3, 4, 1, 1, 1), "conv2d_direct", "Conv"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape, weight, kernel, operator", CASES)
def test_every_rank_has_kernels(
    shape: str, weight: tuple[int, ...], kernel: str, operator: str, target: str
) -> None:
    rng = np.random.default_rng(0)
    dims = ",".join(f"y{i}" for i in range(shape.count(",") + 1))
    outputs = weight[0]
    if "Transpose" in operator:
        outputs = weight[1] * (3 if "group" in operator else 1)
    channel = (1, outputs, *[1] * (len(weight) - 2))
    model = onnx_model(
        f"""g (float[{shape}] x) => (float[{dims}] y) {{
            a = {operator} (x, w, b)
            c = Mul (a, s)
            y = Relu (c)
        }}""",
        w=rng.standard_normal(weight).astype(np.float32),
        b=rng.standard_normal(outputs).astype(np.float32),
        s=rng.standard_normal(channel).astype(np.float32),
    )
    sizes = [3 if d == "n" else int(d) for d in shape.split(",")]
    x = rng.standard_normal(sizes).astype(np.float32)
    check_model(model, {"x": x}, target, kernels={kernel})


def test_residual_lines_and_pools() -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[n,16,40] x) => (float[n,32,20] y) {
            a = Conv <pads=[1,1]> (x, w)
            b = Relu (a)
            c = Conv <pads=[1,1]> (b, w)
            d = Add (c, b)
            e = Concat <axis=1> (b, d)
            y = MaxPool <kernel_shape=[3], strides=[2], pads=[1,1]> (e)
        }""",
        w=rng.standard_normal((16, 16, 3)).astype(np.float32),
    )
    x = rng.standard_normal((2, 16, 40)).astype(np.float32)
    check_model(model, {"x": x}, kernels={"conv2d_direct", "pool2d_max"})
