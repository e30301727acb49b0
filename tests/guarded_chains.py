"""Models of odd shapes, run where nothing may touch what lies beyond a tensor.

    LD_PRELOAD=guard.so python guarded_chains.py KIND SEED COUNT   (in tests/; see memory_guard.c)

KIND is `chain`, elementwise operators, `image`, a convolution of a few channels, or `squeeze`, one
whose data are multiplied on the way, `expanded`, two that are joined, or `recurrent`, a recurrent
layer. Prints each seed before its model runs; the last one printed is the one that died.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from kernels import check_model
from onnx import TensorProto, helper, numpy_helper

BINARY = ("Add", "Mul", "Sub", "Max")
UNARY = ("Relu", "Tanh", "Sigmoid", "Exp", "Abs", "Erf", "Neg", "Floor")


def chain(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one to five operators whose operands broadcast, and its inputs."""
    rng = np.random.default_rng(seed)
    shape = [int(n) for n in rng.integers(1, 10, int(rng.integers(2, 5)))]
    nodes, dims, last = [], {"x": shape}, "x"
    for i in range(int(rng.integers(1, 6))):
        if rng.random() < 0.5:
            tail = shape[len(shape) - int(rng.integers(0, len(shape) + 1)) :]
            dims[f"e{i}"] = [n if rng.random() < 0.5 else 1 for n in tail]
            operands = [last, f"e{i}"] if rng.random() < 0.5 else [f"e{i}", last]
            node = helper.make_node(str(rng.choice(BINARY)), operands, [f"t{i}"])
        else:
            node = helper.make_node(str(rng.choice(UNARY)), [last], [f"t{i}"])
        nodes.append(node)
        last = f"t{i}"
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in dims.items()]
    result = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", infos, [result])
    opsets = [helper.make_opsetid("", 18)]
    feed = {n: rng.standard_normal(d).astype(np.float32) for n, d in dims.items()}
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feed


def image(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A convolution of a padded image without a border, and the image."""
    rng = np.random.default_rng(seed)
    kernel, stride, pads = rng.integers(1, 6, 2), rng.integers(1, 4, 2), rng.integers(0, 4, 4)
    channels, outputs = int(rng.integers(1, 8)), int(rng.choice([5, 16, 24, 40]))
    shape = [int(rng.integers(1, 3)), channels, *(int(n) for n in kernel + rng.integers(0, 40, 2))]
    arrays = {
        "w": rng.standard_normal((outputs, channels, *kernel)).astype(np.float32),
        "b": rng.standard_normal(outputs).astype(np.float32),
    }
    attributes = {"pads": pads.tolist(), "strides": stride.tolist()}
    nodes = [
        helper.make_node("Conv", ["x", *arrays], ["c"], **attributes),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", infos, [result], weights)
    opsets = [helper.make_opsetid("", 18)]
    feed = {"x": rng.standard_normal(shape).astype(np.float32)}
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feed


def squeeze(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A pointwise convolution of a map whose channels are multiplied, and map and factors."""
    rng = np.random.default_rng(seed)
    channels, outputs = int(rng.integers(16, 70)), int(rng.choice([3, 8, 16, 24, 40]))
    shape = [1, channels, *(int(n) for n in rng.integers(13, 24, 2))]
    weight = rng.standard_normal((outputs, channels, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "f"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    dims = {"x": shape, "f": [1, channels, 1, 1]}
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in dims.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", infos, [result], [numpy_helper.from_array(weight, "w")])
    opsets = [helper.make_opsetid("", 18)]
    feed = {n: rng.standard_normal(d).astype(np.float32) for n, d in dims.items()}
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feed


def expanded(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A map that is larger than a core's cache, between two convolutions, and what it is of."""
    rng = np.random.default_rng(seed)
    kernel, strides, pads = rng.integers(1, 5, 2), rng.integers(1, 3, 2), rng.integers(0, 3, 4)
    depth, width = int(rng.integers(16, 40)), int(rng.integers(100, 140))
    shape = [1, depth, *(int(n) for n in rng.integers(50, 60, 2))]
    arrays = {
        "w": rng.standard_normal((width, depth, 1, 1)).astype(np.float32),
        "taps": rng.standard_normal((width, 1, *kernel)).astype(np.float32),
    }
    attributes = {"group": width, "pads": pads.tolist()}
    attributes["strides"] = np.minimum(strides, kernel).tolist()
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "taps"], ["y"], **attributes),
    ]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", infos, [result], weights)
    opsets = [helper.make_opsetid("", 18)]
    feed = {"x": rng.standard_normal(shape).astype(np.float32)}
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feed


def recurrent(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A recurrent layer of an odd size, its batch fixed or open, and its inputs and states."""
    rng = np.random.default_rng(seed)
    op, gates = [("LSTM", 4), ("GRU", 3), ("RNN", 1)][seed % 3]
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    directions = 2 if direction == "bidirectional" else 1
    hidden, batch, steps = (
        int(rng.integers(1, 70)),
        int(rng.integers(1, 8)),
        int(rng.integers(1, 5)),
    )
    width, is_open = int(rng.integers(1, 9)), rng.random() < 0.3

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    feed = {"x": random(steps, batch, width), "h0": random(directions, batch, hidden)}
    arrays = {
        "w": random(directions, gates * hidden, width),
        "r": random(directions, gates * hidden, hidden),
        "b": random(directions, 2 * gates * hidden),
    }
    inputs, outputs = ["x", *arrays, "", "h0"], ["y", "h"]
    if op == "LSTM":
        feed["c0"] = random(directions, batch, hidden)
        inputs, outputs = [*inputs, "c0"], [*outputs, "c"]
    attributes = {"hidden_size": hidden, "direction": direction}
    if op == "GRU":
        attributes["linear_before_reset"] = seed // 3 % 2
    shapes: dict[str, list[int | str]] = {name: [*array.shape] for name, array in feed.items()}
    if is_open:
        shapes = {name: [shape[0], "n", shape[2]] for name, shape in shapes.items()}
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in shapes.items()]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    node = helper.make_node(op, inputs, outputs, **attributes)
    graph = helper.make_graph([node], "g", infos, results, weights)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feed


KINDS = {
    "chain": chain,
    "image": image,
    "squeeze": squeeze,
    "expanded": expanded,
    "recurrent": recurrent,
}

if __name__ == "__main__":
    make = KINDS[sys.argv[1]]
    first, count = map(int, sys.argv[2:])
    for number in range(first, first + count):
        print(number, flush=True)
        check_model(*make(number))
