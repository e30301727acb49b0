"""Elementwise chains of odd shapes, run where nothing may touch what lies beyond a tensor.

    LD_PRELOAD=guard.so python guarded_chains.py SEED COUNT   (in tests/; see memory_guard.c)

Prints each seed before its chain runs; the last one printed is the one that died.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from kernels import check_model
from onnx import TensorProto, helper

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


if __name__ == "__main__":
    first, count = map(int, sys.argv[1:])
    for number in range(first, first + count):
        print(number, flush=True)
        check_model(*chain(number))
