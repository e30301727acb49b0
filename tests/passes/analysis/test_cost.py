"""Arithmetic, parameters and bytes per layer."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from builders import conv_model, dense_model, onnx_model
from tvm import relax, tirx
from tvm.s_tir.analysis import estimate_tir_flops

from relaxc.frontend.importer import from_onnx
from relaxc.passes.analysis.cost import layer_costs


def test_a_convolution() -> None:
    conv = next(c for c in layer_costs(from_onnx(conv_model(4)).mod) if c["op"] == "nn.conv2d")
    assert conv["macs"] == 4 * 8 * 8 * 3 * 3 * 3
    assert conv["params"] == 4 * 3 * 3 * 3
    assert conv["shape"] == [1, 4, 8, 8]
    assert conv["bytes"] == 4 * (3 * 8 * 8 + 4 * 3 * 9 + 4 * 8 * 8)


def test_symbolic_dimensions_count_as_one() -> None:
    (layer,) = layer_costs(from_onnx(dense_model(4, 300)).mod)
    assert layer["macs"] == 4 * 300
    assert layer["shape"] == [1, 300]


def test_grouped_convolution() -> None:
    model = onnx_model(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] y) "
        "{ y = Conv<group=4, pads=[1,1,1,1], kernel_shape=[3,3]>(x, w) }",
        w=np.ones((4, 1, 3, 3), np.float32),
    )
    assert sum(layer["macs"] for layer in layer_costs(from_onnx(model).mod)) == 4 * 25 * 9


def test_operators_without_products() -> None:
    model = onnx_model("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    (layer,) = layer_costs(from_onnx(model).mod)
    assert (layer["macs"], layer["params"], layer["bytes"]) == (0, 0, 48)


def test_equal_operators_have_one_name() -> None:
    """TVM numbers the loop nests that the importer emits."""
    model = onnx_model(
        """g (float[2,3] x) => (float[2,9] y) {
            a = Pad<mode="wrap">(x, p) b = Relu(a) y = Pad<mode="wrap">(b, q) }""",
        p=np.array([0, 1, 0, 2]),
        q=np.array([0, 1, 0, 2]),
    )
    operators = [layer["op"] for layer in layer_costs(from_onnx(model).mod)]
    assert operators.count("pad") == 2
    assert "pad1" not in operators


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("(float[3,40] x) => (float[3,70] y) { y = MatMul(x, w) }", (40, 70)),
        ("(float[2,5,6,8] x) => (float[2,5,6,9] y) { y = MatMul(x, w) }", (5, 8, 9)),
        (
            "(float[2,6,13,11] x) => (float[2,8,6,5] y) { y = Conv<strides=[2,2]>(x, w) }",
            (8, 6, 3, 3),
        ),
        ("(float[1,8,9,9] x) => (float[1,12,7,7] y) { y = Conv<group=4>(x, w) }", (12, 2, 3, 3)),
        ("(float[1,4,20] x) => (float[1,6,16] y) { y = Conv(x, w) }", (6, 4, 5)),
    ],
)
def test_macs_are_those_that_loops_count(text: str, weights: tuple[int, ...]) -> None:
    """TVM counts operations in its own loop nests, which know nothing of our formulas."""
    mod = from_onnx(onnx_model(f"g {text}", w=np.ones(weights, np.float32))).mod
    loops = relax.transform.LegalizeOps()(mod)
    counted = estimate_tir_flops(
        tvm.IRModule({g: f for g, f in loops.functions.items() if isinstance(f, tirx.PrimFunc)})
    )
    assert 2 * sum(layer["macs"] for layer in layer_costs(mod)) == counted
