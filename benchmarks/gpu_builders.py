"""What networks of the GPU benchmark are built with: as an ONNX graph, or as torch functions.

Weights are stretches of one short random vector, so that an artifact of a large model stays small
when it is compressed and sent to the machine with the GPU. Speed is not affected.
"""

# The two nets offer the same operators, named like ONNX's: nothing to add.
# ruff: noqa: D102

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_BASE = np.random.default_rng(0).standard_normal(1 << 12).astype(np.float16).astype(np.float32)


def weight(index: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Weight number `index`: (outputs, height, width, inputs), (depth, columns) or (columns,)."""
    if len(shape) == 1:
        return np.asarray(np.resize(np.roll(_BASE, -997 * index), shape) * 0.02, np.float32)
    rows, depth = (shape[0], math.prod(shape[1:])) if len(shape) == 4 else (shape[1], shape[0])
    starts = np.arange(rows) * 248 + index * 56
    matrix = _BASE[(starts[:, None] + np.arange(depth)) % len(_BASE)]
    if len(shape) == 4:
        return np.asarray(matrix.reshape(shape) * math.sqrt(1.2 / depth), np.float32)
    return np.asarray(matrix.T / math.sqrt(depth), np.float32, order="C")


def pruned(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A matrix of which two of every four neighbours in a column are zero."""
    fours = array.reshape(len(array) // 4, 4, -1).copy()
    order = np.argsort(np.abs(fours), axis=1, kind="stable")
    np.put_along_axis(fours, order[:, :2], 0, axis=1)
    return fours.reshape(array.shape)


class OnnxNet:
    """Builds an ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: dict[str, tuple[Sequence[int], str]] = {}
        self._count = 0

    def _node(self, op: str, *inputs: str, **attributes: Any) -> str:
        self._count += 1
        name = f"t{self._count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def _constant(self, value: Any, dtype: str = "float32") -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        self.inputs[name] = (shape, dtype)
        return name

    def weight(self, index: int, shape: Sequence[int]) -> str:
        value = weight(index, shape)
        return self._constant(value.transpose(0, 3, 1, 2) if value.ndim == 4 else value)

    def pruned_weight(self, index: int, shape: Sequence[int]) -> str:
        return self._constant(pruned(weight(index, shape)))

    def scale(self, index: int, size: int) -> str:
        return self._constant(weight(index, [size]) + 1)

    def conv(self, x: str, w: str, b: str, kernel: int, stride: int) -> str:
        pads = [kernel // 2] * 4
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads}
        return self._node("Conv", x, w, b, **sizes)

    def relu(self, x: str) -> str:
        return self._node("Relu", x)

    def add(self, a: str, b: str) -> str:
        return self._node("Add", a, b)

    def mul(self, a: str, b: str) -> str:
        return self._node("Mul", a, b)

    def max_pool(self, x: str) -> str:
        return self._node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def mean_pool(self, x: str) -> str:
        return self._node("Flatten", self._node("GlobalAveragePool", x))

    def matmul(self, a: str, b: str) -> str:
        return self._node("MatMul", a, b)

    def layer_norm(self, x: str, g: str, b: str) -> str:
        return self._node("LayerNormalization", x, g, b, axis=-1, epsilon=1e-5)

    def gelu(self, x: str) -> str:
        erf = self._node("Erf", self._node("Div", x, self._constant(math.sqrt(2))))
        sum_ = self._node("Add", erf, self._constant(1.0))
        return self.mul(self.mul(x, sum_), self._constant(0.5))

    def silu(self, x: str) -> str:
        return self.mul(x, self._node("Sigmoid", x))

    def gather(self, table: str, indices: str) -> str:
        return self._node("Gather", table, indices)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self._node("Reshape", x, self._constant(shape, "int64"))

    def transpose(self, x: str, axes: Sequence[int]) -> str:
        return self._node("Transpose", x, perm=axes)

    def rms_norm(self, x: str, g: str) -> str:
        square = self._node("Pow", x, self._constant(2.0))
        mean = self._node("ReduceMean", square, self._constant([-1], "int64"), keepdims=1)
        root = self._node("Sqrt", self.add(mean, self._constant(1e-5)))
        return self.mul(self._node("Div", x, root), g)

    def rotate(self, x: str, cos: str, sin: str, depth: int) -> str:
        def part(start: int, end: int) -> str:
            bounds = [self._constant([v], "int64") for v in (start, end, 3)]
            return self._node("Slice", x, *bounds)

        low, high = part(0, depth // 2), part(depth // 2, depth)
        turned = self._node("Concat", self._node("Neg", high), low, axis=3)
        return self.add(self.mul(x, cos), self.mul(turned, sin))

    def concat(self, a: str, b: str) -> str:
        return self._node("Concat", a, b, axis=2)

    def attention(self, q: str, k: str, v: str, depth: int, mask: str | None = None) -> str:
        scores = self.matmul(q, self.transpose(k, [0, 1, 3, 2]))
        scores = self.mul(scores, self._constant(1 / math.sqrt(depth)))
        if mask is not None:
            scores = self.add(scores, mask)
        return self.matmul(self._node("Softmax", scores, axis=-1), v)

    def model(self, result: str) -> onnx.ModelProto:
        """The finished model."""

        def info(name: str, shape: Sequence[int] | None, dtype: str) -> onnx.ValueInfoProto:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            return helper.make_tensor_value_info(name, kind, shape)

        inputs = [info(name, *of) for name, of in self.inputs.items()]
        graph = helper.make_graph(
            self.nodes, "net", inputs, [info(result, None, "float32")], self.constants
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 9
        return onnx.shape_inference.infer_shapes(model)


class QuantizedNet(OnnxNet):
    """The same with convolutions and products of bytes, as exporters write quantized models.

    Ranges are guesses: no calibration, as speed does not depend on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._quantized: dict[str, str] = {}
        self._is_positive: set[str] = set()

    def relu(self, x: str) -> str:
        y = super().relu(x)
        self._is_positive.add(y)
        return y

    def conv(self, x: str, w: str, b: str, kernel: int, stride: int) -> str:
        return super().conv(self._bytes(x), self._integers(w, 0), b, kernel, stride)

    def max_pool(self, x: str) -> str:
        y = super().max_pool(self._bytes(x))
        self._is_positive.add(y)
        return y

    def matmul(self, a: str, b: str) -> str:
        return super().matmul(self._bytes(a), self._integers(b, 1))

    def add(self, a: str, b: str) -> str:
        is_constant = any(c.name == b for c in self.constants)
        return super().add(a, b if is_constant else self._bytes(b))

    def _bytes(self, x: str) -> str:
        if x not in self._quantized:
            low = 0 if x in self._is_positive else 128
            scale, zero = self._constant(0.04), self._constant(low, "uint8")
            bytes_ = self._node("QuantizeLinear", x, scale, zero)
            self._quantized[x] = self._node("DequantizeLinear", bytes_, scale, zero)
        return self._quantized[x]

    def _integers(self, w: str, axis: int) -> str:
        place = next(i for i, c in enumerate(self.constants) if c.name == w)
        value = numpy_helper.to_array(self.constants[place])
        others = tuple(a for a in range(value.ndim) if a != axis)
        step = np.maximum(np.abs(value).max(axis=others, keepdims=True), 1e-6) / 127
        integers = np.rint(value / step).astype(np.int8)
        parts = integers, step.reshape(-1), np.zeros(step.size, np.int8)
        names = [self._constant(p, p.dtype.name) for p in parts]
        return self._node("DequantizeLinear", *names, axis=axis)


class TorchNet:
    """Computes the same with torch.

    Args:
        inputs: tensors by name.
        make: weight from NumPy; called once per weight, in order, when `weights` is empty.
        weights: what `make` made.
    """

    def __init__(
        self, inputs: dict[str, Any], make: Callable[[np.ndarray], Any], weights: list[Any]
    ) -> None:
        self._inputs, self._make, self._weights = inputs, make, weights
        self._is_first, self._next = not weights, 0

    def _parameter(self, value: Callable[[], np.ndarray]) -> Any:
        if self._is_first:
            self._weights.append(self._make(value()))
        self._next += 1
        return self._weights[self._next - 1]

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> Any:
        return self._inputs[name]

    def weight(self, index: int, shape: Sequence[int]) -> Any:
        def value() -> np.ndarray:
            array = weight(index, shape)
            return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array

        return self._parameter(value)

    def pruned_weight(self, index: int, shape: Sequence[int]) -> Any:
        return self._parameter(lambda: pruned(weight(index, shape)))

    def scale(self, index: int, size: int) -> Any:
        return self._parameter(lambda: weight(index, [size]) + 1)

    def conv(self, x: Any, w: Any, b: Any, kernel: int, stride: int) -> Any:
        from torch.nn import functional

        return functional.conv2d(x, w, b, stride=stride, padding=kernel // 2)

    def relu(self, x: Any) -> Any:
        return x.relu()

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    def max_pool(self, x: Any) -> Any:
        from torch.nn import functional

        return functional.max_pool2d(x, 3, 2, 1)

    def mean_pool(self, x: Any) -> Any:
        return x.mean((2, 3))

    def matmul(self, a: Any, b: Any) -> Any:
        return a @ b

    def layer_norm(self, x: Any, g: Any, b: Any) -> Any:
        from torch.nn import functional

        return functional.layer_norm(x, (x.shape[-1],), g, b, 1e-5)

    def gelu(self, x: Any) -> Any:
        from torch.nn import functional

        return functional.gelu(x)

    def silu(self, x: Any) -> Any:
        from torch.nn import functional

        return functional.silu(x)

    def gather(self, table: Any, indices: Any) -> Any:
        return table[indices]

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        return x.reshape(list(shape))

    def transpose(self, x: Any, axes: Sequence[int]) -> Any:
        return x.permute(list(axes))

    def rms_norm(self, x: Any, g: Any) -> Any:
        wide = x.float() if x.itemsize < 4 else x
        return (wide * (wide.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()).to(x.dtype) * g

    def rotate(self, x: Any, cos: Any, sin: Any, depth: int) -> Any:
        import torch

        turned = torch.cat((-x[..., depth // 2 :], x[..., : depth // 2]), -1)
        return x * cos + turned * sin

    def concat(self, a: Any, b: Any) -> Any:
        import torch

        return torch.cat((a, b), 2)

    def attention(self, q: Any, k: Any, v: Any, depth: int, mask: Any = None) -> Any:
        from torch.nn import functional

        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
