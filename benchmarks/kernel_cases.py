"""One model per class of kernel: an operator at a shape that networks use.

What is bound by memory gets tensors that no cache holds, so that its rate can be compared with that
of main memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper, parser


@dataclass(frozen=True)
class Case:
    """An operator at one shape.

    Attributes:
        name: the class of kernel.
        shape: for the table.
        inputs: types and names, as ONNX's text has them.
        body: the nodes; `y` is the result.
        weights: name -> shape of random constants.
        opset: of the model.
        kind: type of the result's elements.
    """

    name: str
    shape: str
    inputs: str
    body: str
    weights: dict[str, tuple[int, ...]]
    opset: int = 18
    kind: str = "float"

    def model(self) -> onnx.ModelProto:
        """The model, with seeded weights."""
        rng = np.random.default_rng(0)
        text = (
            f'<ir_version: 9, opset_import: ["" : {self.opset}]> '
            f"g ({self.inputs}) => ({self.kind}[] y) {{ {self.body} }}"
        )
        model = parser.parse_model(text)
        model.graph.output[0].type.tensor_type.ClearField("shape")
        for name, shape in self.weights.items():
            fan_in = max(1, int(np.prod(shape[1:])))
            array = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        for name, values in _CONSTANTS.items():
            if name in self.body:
                model.graph.initializer.append(numpy_helper.from_array(values, name))
        return model


_CONSTANTS = {
    "last_axes": np.array([2, 3]),
    "doubled": np.array([1, 1, 2, 2], np.float32),
}


def _conv(
    name: str,
    data: tuple[int, ...],
    weight: tuple[int, ...],
    attributes: str = "",
    op: str = "Conv",
) -> Case:
    kernel = ",".join(map(str, weight[2:]))
    more = f", {attributes}" if attributes else ""
    dims = ",".join(map(str, data))
    return Case(
        name,
        f"{'x'.join(map(str, data[1:]))}, {'x'.join(map(str, weight))}",
        f"float[{dims}] x",
        f"c = {op}<kernel_shape=[{kernel}]{more}>(x, w, b) y = Relu(c)",
        {"w": weight, "b": (weight[0] if op == "Conv" else weight[1],)},
    )


def _map(name: str, body: str, shape: str = "4,64,256,256", **weights: tuple[int, ...]) -> Case:
    return Case(name, shape.replace(",", "x"), f"float[{shape}] x", body, weights)


_SAME = "pads=[1,1,1,1]"
CASES = (
    Case("GEMM", "768x768x768", "float[768,768] x", "y = MatMul(x, w)", {"w": (768, 768)}),
    Case(
        "batched GEMM",
        "48x256x64x256",
        "float[48,256,64] x, float[48,64,256] z",
        "y = MatMul(x, z)",
        {},
    ),
    Case("GEMV", "1x4096x8192", "float[1,4096] x", "y = MatMul(x, w)", {"w": (4096, 8192)}),
    _conv("convolution, Winograd", (1, 128, 28, 28), (128, 128, 3, 3), _SAME),
    _conv("convolution, direct", (1, 128, 28, 28), (128, 128, 5, 3), "pads=[2,1,2,1]"),
    _conv("convolution, pointwise", (1, 256, 28, 28), (512, 256, 1, 1)),
    _conv("convolution, strided", (1, 128, 56, 56), (256, 128, 3, 3), f"strides=[2,2], {_SAME}"),
    _conv(
        "convolution, dilated",
        (1, 128, 28, 28),
        (128, 128, 3, 3),
        "dilations=[2,2], pads=[2,2,2,2]",
    ),
    _conv("convolution, grouped", (1, 256, 28, 28), (256, 32, 3, 3), f"group=8, {_SAME}"),
    _conv("convolution, depthwise", (1, 144, 56, 56), (144, 1, 3, 3), f"group=144, {_SAME}"),
    _conv(
        "convolution, first layer",
        (1, 3, 224, 224),
        (64, 3, 7, 7),
        "strides=[2,2], pads=[3,3,3,3]",
    ),
    _conv(
        "convolution, transposed",
        (1, 128, 64, 64),
        (128, 64, 2, 2),
        "strides=[2,2]",
        "ConvTranspose",
    ),
    _conv("convolution, 1-D", (1, 256, 1500), (256, 256, 3), "pads=[1,1]"),
    _conv("convolution, 3-D", (1, 32, 16, 56, 56), (64, 32, 3, 3, 3), "pads=[1,1,1,1,1,1]"),
    Case(
        "attention",
        "12 heads, 512x64",
        "float[1,12,512,64] q, float[1,12,64,512] k, float[1,12,512,64] v",
        "s = MatMul(q, k) p = Softmax<axis=-1>(s) y = MatMul(p, v)",
        {},
    ),
    Case(
        "LSTM",
        "64 steps, 256",
        "float[64,1,256] x",
        "y, h, c = LSTM<hidden_size=256>(x, w, r)",
        {"w": (1, 1024, 256), "r": (1, 1024, 256)},
    ),
    Case(
        "LSTM, odd",
        "64 steps, 250",
        "float[64,1,250] x",
        "y, h, c = LSTM<hidden_size=250>(x, w, r)",
        {"w": (1, 1000, 250), "r": (1, 1000, 250)},
    ),
    Case(
        "LSTM, eight sequences",
        "64 steps, 256",
        "float[64,8,256] x",
        "y, h, c = LSTM<hidden_size=256>(x, w, r)",
        {"w": (1, 1024, 256), "r": (1, 1024, 256)},
    ),
    Case(
        "GRU",
        "64 steps, 256",
        "float[64,1,256] x",
        "y, h = GRU<hidden_size=256, linear_before_reset=1>(x, w, r)",
        {"w": (1, 768, 256), "r": (1, 768, 256)},
    ),
    Case(
        "GRU, eight sequences",
        "64 steps, 256",
        "float[64,8,256] x",
        "y, h = GRU<hidden_size=256, linear_before_reset=1>(x, w, r)",
        {"w": (1, 768, 256), "r": (1, 768, 256)},
    ),
    _map("maximum pooling", f"y = MaxPool<kernel_shape=[3,3], strides=[2,2], {_SAME}>(x)"),
    _map("average pooling", "y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)"),
    _map("global average", "y = GlobalAveragePool(x)"),
    _map("reduction, last axes", "y = ReduceSum(x, last_axes)"),
    _map("softmax", "y = Softmax<axis=-1>(x)", "16384,1024"),
    _map(
        "layer norm", "y = LayerNormalization<axis=-1>(x, w, b)", "16384,1024", w=(1024,), b=(1024,)
    ),
    _map("instance norm", "y = InstanceNormalization(x, w, b)", w=(64,), b=(64,)),
    _map("elementwise chain", "a = Mul(x, x) c = Sigmoid(a) y = Mul(c, x)"),
    _map("transpose, to channels last", "y = Transpose<perm=[0,2,3,1]>(x)"),
    _map("transpose, images", "y = Transpose<perm=[0,2,3,1]>(x)", "8,3,1024,512"),
    _map("transpose, matrix", "y = Transpose<perm=[1,0]>(x)", "4096,4096"),
    _map("transpose, matrix of 4000", "y = Transpose<perm=[1,0]>(x)", "4000,4000"),
    _map("transpose, matrix of 4099", "y = Transpose<perm=[1,0]>(x)", "4099,4099"),
    Case(
        "transpose, bytes",
        "8256x8256",
        "uint8[8256,8256] x",
        "y = Transpose<perm=[1,0]>(x)",
        {},
        kind="uint8",
    ),
    Case(
        "gather, rows",
        "65536 of 30000x256",
        "int64[65536] i",
        "y = Gather<axis=0>(w, i)",
        {"w": (30000, 256)},
    ),
    _map(
        "resize, nearest",
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
        'nearest_mode="floor">(x, , doubled)',
        "2,64,128,128",
    ),
    _map("resize, linear", 'y = Resize<mode="linear">(x, , doubled)', "2,64,128,128"),
    _map("resize, cubic", 'y = Resize<mode="cubic">(x, , doubled)', "2,64,128,128"),
)
