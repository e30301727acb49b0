"""Random chains of elementwise operators with every kind of broadcasting, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from builders import onnx_model
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import check_model, run_model
from onnx import TensorProto, helper

from relaxc.targets.llvm.groups import elementwise
from relaxc.targets.llvm.kernels import streaming
from relaxc.targets.registry import backend_for

_BINARY = ("Add", "Mul", "Sub", "Max")
_UNARY = ("Relu", "Tanh", "Sigmoid", "Exp", "Abs", "Erf", "Neg", "Floor")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_chain(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 21), min_size=1, max_size=4), label="shape")
    nodes, inputs, feed, last = [], [("x", shape)], {}, "x"
    rng = np.random.default_rng(len(shape))
    for i in range(data.draw(st.integers(1, 5), label="operators")):
        out = f"t{i}"
        if data.draw(st.booleans(), label="binary"):
            rank = data.draw(st.integers(0, len(shape)), label="rank")
            tail = shape[len(shape) - rank :]
            other = [n if data.draw(st.booleans(), label="wide") else 1 for n in tail]
            inputs.append((f"e{i}", other))
            op = data.draw(st.sampled_from(_BINARY), label="op")
            operands = (
                [last, f"e{i}"] if data.draw(st.booleans(), label="left") else [f"e{i}", last]
            )
            nodes.append(helper.make_node(op, operands, [out]))
        else:
            nodes.append(helper.make_node(data.draw(st.sampled_from(_UNARY)), [last], [out]))
        last = out
    for name, dims in inputs:
        feed[name] = rng.standard_normal(dims).astype(np.float32)
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in inputs]
    result = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", infos, [result])
    opsets = [helper.make_opsetid("", 18)]
    check_model(helper.make_model(graph, opset_imports=opsets, ir_version=9), feed)


def test_several_look_ups_in_one_kernel() -> None:
    """SiLU's table and that of exponentials declare the same instruction."""
    names = ["x", "a", "b", "c"]
    nodes = [
        helper.make_node(op, [i], [o])
        for op, i, o in zip(("Sigmoid", "Tanh", "Exp"), names, names[1:])
    ]
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 6, 1, 3])
    result = helper.make_tensor_value_info("c", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [info], [result])
    opsets = [helper.make_opsetid("", 18)]
    x = np.random.default_rng(0).standard_normal((8, 6, 1, 3)).astype(np.float32)
    check_model(helper.make_model(graph, opset_imports=opsets, ir_version=9), {"x": x})


def test_nan_and_infinity_propagate() -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38, 88.0]], np.float32)
    for op in ("Exp", "Tanh", "Sigmoid", "Erf", "Relu", "Log"):
        node = helper.make_node(op, ["x"], ["y"])
        info = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "g", [info], [out])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        actual = run_model(model, {"x": x})[0][0]
        np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected), err_msg=op)
        known = ~np.isnan(expected)
        np.testing.assert_allclose(actual[known], expected[known], 1e-5, 1e-6, err_msg=op)


def test_one_number_per_image_is_not_one_per_channel() -> None:
    graph = "g (float[2,20,4,5] x, float[2,1,1,1] m) => (float[2,20,4,5] y) { y = Sub(x, m) }"
    rng = np.random.default_rng(0)
    feed = {
        name: rng.random(s, np.float32) for name, s in (("x", (2, 20, 4, 5)), ("m", (2, 1, 1, 1)))
    }
    check_model(onnx_model(graph), feed)


def test_large_maps_are_stored_around_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def counted(*args: Any) -> None:
        found.append(1)
        streaming.stream(*args)

    monkeypatch.setattr(streaming, "_LARGE", 0)
    monkeypatch.setattr(elementwise, "stream", counted)
    model = onnx_model(
        """g (float[1,32,6,7] x) => (float[1,32,6,7] y) {
            a = InstanceNormalization (x, s, b)  y = Sigmoid (a) }""",
        s=np.linspace(-1, 1, 32, dtype=np.float32),
        b=np.linspace(1, 2, 32, dtype=np.float32),
    )
    feed = {"x": np.random.default_rng(0).standard_normal((1, 32, 6, 7)).astype(np.float32)}
    check_model(model, feed)
    if backend_for("llvm").kernels.lanes == 16:
        assert found
