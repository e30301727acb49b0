"""One small graph at each stage of quantization: golden IR for its passes."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import tvm
from tvm import IRModule
from tvm.script import ir as I
from tvm.script import relax as R
from virtual_machine import virtual_machine

from relaxc.passes.quantize.affine import activation_params, weight_params

WEIGHT = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
PARAMS = weight_params(WEIGHT, 0)
INTEGERS = PARAMS.quantize(WEIGHT)
INPUT = activation_params(-1.0, 2.0, symmetric=False)
HIDDEN = activation_params(0.0, 4.0, symmetric=False)


@I.ir_module
class Float:
    @R.function
    def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 4, 4), "float32"):
        with R.dataflow():
            a = R.nn.conv2d(x, R.const(WEIGHT))
            b = R.nn.relu(a)
            c = R.nn.max_pool2d(b, pool_size=[2, 2], strides=[2, 2])
            d = R.nn.conv2d(c, R.const(WEIGHT))
            y = R.sigmoid(d)
            R.output(y)
        return y


@I.ir_module
class Annotated:
    @R.function
    def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 4, 4), "float32"):
        with R.dataflow():
            x_q = R.call_pure_packed(
                "relaxc.fake_quantize",
                x,
                R.str("activation"),
                0,
                ty_args=(R.Tensor((1, 4, 8, 8), "float32"),),
            )
            a_w = R.call_pure_packed(
                "relaxc.fake_quantize",
                R.const(WEIGHT),
                R.str("weight"),
                0,
                ty_args=(R.Tensor((4, 4, 1, 1), "float32"),),
            )
            a = R.nn.conv2d(x_q, a_w)
            b = R.nn.relu(a)
            b_q = R.call_pure_packed(
                "relaxc.fake_quantize",
                b,
                R.str("activation"),
                1,
                ty_args=(R.Tensor((1, 4, 8, 8), "float32"),),
            )
            c = R.nn.max_pool2d(b_q, pool_size=[2, 2], strides=[2, 2])
            c_q = R.call_pure_packed(
                "relaxc.fake_quantize",
                c,
                R.str("activation"),
                1,
                ty_args=(R.Tensor((1, 4, 4, 4), "float32"),),
            )
            d_w = R.call_pure_packed(
                "relaxc.fake_quantize",
                R.const(WEIGHT),
                R.str("weight"),
                0,
                ty_args=(R.Tensor((4, 4, 1, 1), "float32"),),
            )
            d = R.nn.conv2d(c_q, d_w)
            y = R.sigmoid(d)
            R.output(y)
        return y


@I.ir_module
class Instrumented:
    @R.function
    def main(
        x: R.Tensor((1, 4, 8, 8), "float32"),
    ) -> R.Tuple(
        R.Tensor((1, 4, 4, 4), "float32"),
        R.Tensor((1,), "int32"),
        R.Tensor((1,), "int32"),
        R.Tensor((1,), "int32"),
    ):
        with R.dataflow():
            seen0 = R.call_dps_packed("relaxc.observe", (x, 0), out_ty=R.Tensor((1,), "int32"))
            a = R.nn.conv2d(x, R.const(WEIGHT))
            b = R.nn.relu(a)
            seen1 = R.call_dps_packed("relaxc.observe", (b, 1), out_ty=R.Tensor((1,), "int32"))
            c = R.nn.max_pool2d(b, pool_size=[2, 2], strides=[2, 2])
            seen2 = R.call_dps_packed("relaxc.observe", (c, 1), out_ty=R.Tensor((1,), "int32"))
            d = R.nn.conv2d(c, R.const(WEIGHT))
            y = R.sigmoid(d)
            R.output(seen0, seen1, seen2, y)
        return (y, seen0, seen1, seen2)


@I.ir_module
class Quantized:
    @R.function
    def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 4, 4), "float32"):
        with R.dataflow():
            x_i = R.quantize(x, R.const(INPUT.scale), R.const(INPUT.zero_point), out_dtype="uint8")
            x_q = R.dequantize(x_i, R.const(INPUT.scale), R.const(INPUT.zero_point))
            a_w = R.dequantize(
                R.const(INTEGERS), R.const(PARAMS.scale), R.const(PARAMS.zero_point), axis=0
            )
            a = R.nn.conv2d(x_q, a_w)
            b = R.nn.relu(a)
            b_i = R.quantize(
                b, R.const(HIDDEN.scale), R.const(HIDDEN.zero_point), out_dtype="uint8"
            )
            b_q = R.dequantize(b_i, R.const(HIDDEN.scale), R.const(HIDDEN.zero_point))
            c = R.nn.max_pool2d(b_q, pool_size=[2, 2], strides=[2, 2])
            c_i = R.quantize(
                c, R.const(HIDDEN.scale), R.const(HIDDEN.zero_point), out_dtype="uint8"
            )
            c_q = R.dequantize(c_i, R.const(HIDDEN.scale), R.const(HIDDEN.zero_point))
            d_w = R.dequantize(
                R.const(INTEGERS), R.const(PARAMS.scale), R.const(PARAMS.zero_point), axis=0
            )
            d = R.nn.conv2d(c_q, d_w)
            y = R.sigmoid(d)
            R.output(y)
        return y


def run(mod: IRModule, arguments: Iterable[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """With TVM's defaults."""
    vm = virtual_machine(mod)
    for arrays in arguments:
        result = vm["main"](*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays))
        yield [np.asarray(tensor.numpy()) for tensor in result]
