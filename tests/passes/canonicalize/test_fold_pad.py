"""Zeros around the data of a convolution are its padding."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.passes.canonicalize.fold_pad import FoldPad


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor(("n", 3, 8, 8), "float32"), w: R.Tensor((4, 3, 3, 2), "float32")
    ) -> R.Tensor(("n", 4, 4, 9), "float32"):
        with R.dataflow():
            lv = R.nn.pad(x, [0, 0, 0, 0, 0, 1, 1, 0])
            gv = R.nn.conv2d(lv, w, strides=[2, 1], padding=[0, 0, 0, 1])
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor(("n", 3, 8, 8), "float32"), w: R.Tensor((4, 3, 3, 2), "float32")
    ) -> R.Tensor(("n", 4, 4, 9), "float32"):
        with R.dataflow():
            gv = R.nn.conv2d(x, w, strides=[2, 1], padding=[0, 1, 1, 1])
            R.output(gv)
        return gv


def test_rewrites(golden: Callable[..., None]) -> None:
    golden(FoldPad(), Before, Expected)


@pytest.mark.parametrize(
    "width, value, more",
    [
        ([0, 0, 0, 0, 1, 1, 0, 0], 1.0, {}),  # ones
        ([0, 0, 0, 1, 1, 1, 0, 0], 0.0, {}),  # another channel
        ([0, 0, 0, 0, 3, 0, 0, 0], 0.0, {}),  # a window of zeros alone
        ([0, 0, 0, 0, 1, 1, 0, 0], 0.0, {"data_layout": "NHWC"}),
    ],
)
def test_leaves_other_borders_alone(
    golden: Callable[..., None], width: list[int], value: float, more: dict[str, str]
) -> None:
    channels = 3 + width[3]
    x = relax.Var("x", R.Tensor((1, 3, 8, 3), "float32"))
    last = channels if not more else 3
    w = relax.Var("w", R.Tensor((4, last, 3, 2), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        with builder.dataflow():
            padded = builder.emit(relax.op.nn.pad(x, width, "constant", value))
            result = builder.emit_output(relax.op.nn.conv2d(padded, w, **more))
        builder.emit_func_output(result)
    golden(FoldPad(), builder.get(), builder.get())


def test_causal_convolutions_match_onnxruntime() -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[n,8,20] x, float[1,4,5,6,7] v) => (float[n,16,20] y, float[1,6,a,b,c] z) {
            a = Pad (x, causal)
            y = Conv <dilations=[2]> (a, w)
            d = Pad (v, around)
            z = Conv <strides=[1,2,2]> (d, u)
        }""",
        causal=np.array([0, 0, 4, 0, 0, 0]),
        around=np.array([0, 0, 1, 0, 1, 0, 0, 1, 1, 0]),
        w=rng.standard_normal((16, 8, 3)).astype(np.float32),
        u=rng.standard_normal((6, 4, 3, 2, 2)).astype(np.float32),
    )
    feed = {
        "x": rng.standard_normal((2, 8, 20)).astype(np.float32),
        "v": rng.standard_normal((1, 4, 5, 6, 7)).astype(np.float32),
    }
    check_model(model, feed)
