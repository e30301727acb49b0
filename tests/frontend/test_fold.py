"""Constant folding on ONNX level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import onnx_model
from onnx import numpy_helper

from relaxc.frontend.fold import fold_constants
from relaxc.frontend.load import OnnxModel, read_model
from relaxc.frontend.simplify import constants, eliminate_dead_nodes


def folded(graph: str, opset: int = 18, **weights: Any) -> OnnxModel:
    model = read_model(onnx_model(graph, opset, **weights))
    fold_constants(model)
    eliminate_dead_nodes(model)
    return model


def operators(model: OnnxModel) -> list[str]:
    return [node.op_type for node in model.proto.graph.node]


def test_arithmetic_on_constants_is_done() -> None:
    model = folded(
        "g (float[2] x) => (float[2] y) { c = Add(a, b)  y = Mul(x, c) }",
        a=np.ones(2, np.float32),
        b=np.full(2, 3, np.float32),
    )
    assert operators(model) == ["Mul"]
    np.testing.assert_array_equal(constants(model)["c"], [4, 4])


def test_the_shape_of_a_static_tensor_is_a_constant() -> None:
    model = folded(
        """g (float[2,3,4] x) => (float[2,12] y) {
            s = Shape(x)  n = Gather(s, zero)  m = Concat<axis=0>(n, rest)  y = Reshape(x, m) }""",
        zero=np.array([0]),
        rest=np.array([-1]),
    )
    assert operators(model) == ["Reshape"]
    np.testing.assert_array_equal(constants(model)["m"], [2, -1])


def test_a_folded_reshape_reveals_the_shape_behind_it() -> None:
    model = folded(
        """g (float[2,6] x) => (float[3,4] y) {
            a = Reshape(x, to)  s = Shape(a)  r = Slice(s, zero, two)  y = Reshape(a, r) }""",
        to=np.array([3, 4]),
        zero=np.array([0]),
        two=np.array([2]),
    )
    np.testing.assert_array_equal(constants(model)["r"], [3, 4])


def test_quantized_weights_stay_integers() -> None:
    model = folded(
        """g (float[2,4] x) => (float[2,3] y) {
            w = DequantizeLinear<axis=1>(q, s)  b = DequantizeLinear<axis=0>(i, s)
            p = MatMul(x, w)  y = Add(p, b)
        }""",
        opset=21,
        q=np.zeros((4, 3), np.int8),
        i=np.zeros(3, np.int32),
        s=np.ones(3, np.float32),
    )
    assert operators(model) == ["DequantizeLinear", "MatMul", "Add"]


@pytest.mark.parametrize("opset", [13, 21])
def test_quantized_weights_of_recurrent_layers_are_floats(opset: int) -> None:
    model = folded(
        """g (float[5,2,3] x) => (float y, float[1,4,4] z) {
            w = DequantizeLinear<axis=1>(q, s)  r = DequantizeLinear<axis=1>(p, s)
            v = DequantizeLinear<axis=1>(p, s)  u = Transpose<perm=[0,2,1]>(v)
            a = DequantizeLinear<axis=1>(p, s)  z = Relu(a)
            h, c = RNN<hidden_size=4>(x, w, r)  f = Squeeze(h, one)
            y, e = RNN<hidden_size=4>(f, u, a)
        }""",
        opset=opset,
        q=np.zeros((1, 4, 3), np.int8),
        p=np.zeros((1, 4, 4), np.int8),
        s=np.ones(4, np.float32),
        one=np.array([1], np.int64),
    )
    # `a` is read elsewhere, too.
    assert operators(model) == ["DequantizeLinear", "Relu", "RNN", "Squeeze", "RNN"]


def test_symbolic_shapes_stay() -> None:
    model = folded("g (float[n,3] x) => (int64[2] y) { y = Shape(x) }")
    assert operators(model) == ["Shape"]


def test_part_of_a_shape_may_be_known() -> None:
    model = folded("g (float[n,3] x) => (int64[1] y) { y = Shape<start=1>(x) }")
    assert operators(model) in ([], ["Shape"])


def test_identities_vanish() -> None:
    model = folded(
        "g (float[2] x) => (float[2] y) { a = Identity(x)  b = Identity(a)  y = Relu(b) }"
    )
    assert operators(model) == ["Relu"]
    assert list(model.proto.graph.node[0].input) == ["x"]


def test_an_identity_that_names_an_output_stays() -> None:
    model = folded("g (float[2] x) => (float[2] y) { y = Identity(x) }")
    assert operators(model) == ["Identity"]


def test_random_operators_are_not_evaluated() -> None:
    model = folded("g () => (float[2] y) { y = RandomNormal <shape=[2]> () }")
    assert operators(model) == ["RandomNormal"]


def test_results_that_would_blow_the_model_up_stay_computed() -> None:
    model = folded("g () => (float[n] y) { y = ConstantOfShape(size) }", size=np.array([1 << 24]))
    assert operators(model) == ["ConstantOfShape"]


def test_large_results_are_kept_out_of_the_graph() -> None:
    model = folded(
        "g (float[600] x) => (float[600] y) { c = Neg(w)  y = Add(x, c) }",
        w=np.ones(600, np.float32),
    )
    assert "c" in model.weights
    assert not model.proto.graph.initializer


def test_names_are_replaced_inside_of_branches() -> None:
    model = folded(
        """g (bool c, float[2] x) => (float[2] y) {
            a = Identity(x)
            y = If (c) <then_branch = t () => (float[2] u) { u = Relu(a) },
                        else_branch = e () => (float[2] v) { v = Neg(a) }>
        }"""
    )
    branches = [attr.g for attr in model.proto.graph.node[0].attribute]
    assert {node.input[0] for branch in branches for node in branch.node} == {"x"}


def test_division_by_zero_is_folded_like_at_run_time() -> None:
    model = folded(
        "g (float[1] x) => (float[1] y) { c = Div(a, b)  y = Add(x, c) }",
        a=np.ones(1, np.float32),
        b=np.zeros(1, np.float32),
    )
    assert numpy_helper.to_array(model.proto.graph.initializer[0])[0] == np.inf
