"""Arithmetic, parameters and bytes per layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from builders import conv_model, dense_model, onnx_model

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


def test_equal_operators_have_one_name(mnist_onnx: Path) -> None:
    """TVM numbers the loop nests that the importer emits."""
    operators = [layer["op"] for layer in layer_costs(from_onnx(mnist_onnx).mod)]
    assert operators.count("pad") == 2
    assert "pad1" not in operators
