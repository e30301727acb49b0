"""Small ONNX models for tests, written as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser


def onnx_model(graph: str, opset: int = 18, **weights: np.ndarray) -> onnx.ModelProto:
    """Parse `g (float[n,3] x) => (float[n,3] y) { y = Relu(x) }` and add weights to it."""
    header = f'<ir_version: 9, opset_import: ["" : {opset}]>\n'
    model = parser.parse_model(header + graph)
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    return model


def relu_model() -> onnx.ModelProto:
    """The smallest model with a symbolic dimension."""
    return onnx_model("g (float[n,3] x) => (float[n,3] y) { y = Relu(x) }")


def dense_model(rows: int = 4, columns: int = 300) -> onnx.ModelProto:
    """A model with a weight large enough to be kept out of the protobuf."""
    weight = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    return onnx_model(
        f"g (float[n,{rows}] x) => (float[n,{columns}] y) {{ y = MatMul(x, w) }}", w=weight
    )


def conv_model(channels: int = 4) -> onnx.ModelProto:
    """Convolution, batch normalization, ReLU, global pooling: every phase has something to do."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return onnx_model(
        f"""g (float[1,3,8,8] x) => (float[1,{channels},1,1] y) {{
            a = Conv <pads=[1,1,1,1], kernel_shape=[3,3]> (x, w, b)
            c = BatchNormalization (a, gamma, beta, mean, var)
            d = Relu (c)
            y = GlobalAveragePool (d)
        }}""",
        w=random(channels, 3, 3, 3),
        b=random(channels),
        gamma=random(channels),
        beta=random(channels),
        mean=random(channels),
        var=np.abs(random(channels)) + 0.5,
    )


def quantized_model(graph: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A model whose weights `w...` are int8 with a scale per output channel, data are bytes."""
    constants: dict[str, Any] = {
        "zero": np.array(117, np.uint8),
        "scale": np.array(0.031, np.float32),
        "zero2": np.array(0, np.uint8),
        "scale2": np.array(0.043, np.float32),
    }
    for name, weight in weights.items():
        if not name.startswith("w"):
            constants[name] = weight
            continue
        axis = 0 if weight.ndim == 4 else 1
        others = tuple(a for a in range(weight.ndim) if a != axis)
        step = np.abs(weight).max(axis=others) / 127
        shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
        constants[f"{name}_q"] = np.rint(weight / step.reshape(shape)).astype(np.int8)
        constants[f"{name}_s"] = step.astype(np.float32)
        constants[f"{name}_z"] = np.zeros(step.shape, np.int8)
        graph = graph.replace(
            f"{name}=",
            f"{name} = DequantizeLinear<axis={axis}>({name}_q, {name}_s, {name}_z)",
        )
    return onnx_model(graph, **constants)
