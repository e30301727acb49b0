"""Products with quantized weights, as ONNX models."""

from __future__ import annotations

import numpy as np
import onnx
from builders import onnx_model
from onnx import helper, numpy_helper

KINDS = {
    "int4": onnx.TensorProto.INT4,
    "uint4": onnx.TensorProto.UINT4,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
}


def product(
    rng: np.random.Generator,
    rows: int | str,
    depth: int,
    columns: int,
    group: int,
    kind: str,
    zeros: str = "all",
) -> onnx.ModelProto:
    """ReLU(x @ w + bias) with w in groups of rows; zero points: none, one for all, or all."""
    inputs = "q, s" if zeros == "none" else "q, s, z"
    model = onnx_model(
        f"""g (float[{rows},{depth}] x) => (float[{rows},{columns}] y) {{
            w = DequantizeLinear<axis=0, block_size={group}>({inputs})
            p = MatMul(x, w)  a = Add(p, b)  y = Relu(a)
        }}""",
        23,
        s=rng.uniform(0.5, 1.5, (depth // group, columns)).astype(np.float32) / 10,
        b=rng.standard_normal(columns).astype(np.float32),
    )
    bits = int(kind[-1])
    low = 0 if kind[0] == "u" else -(1 << bits - 1)
    high = low + (1 << bits)
    integers = rng.integers(low, high, (depth, columns))
    integers.flat[:2] = low, high - 1
    zero = rng.integers(low, high, (depth // group, columns))
    if zeros == "one":
        zero[:] = low + 3
    arrays = {"q": integers, "z": zero} if zeros != "none" else {"q": integers}
    for name, array in arrays.items():
        narrow = array.astype(helper.tensor_dtype_to_np_dtype(KINDS[kind]))
        model.graph.initializer.append(numpy_helper.from_array(narrow, name))
    return model
