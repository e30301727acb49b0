"""Inputs that kernels read wherever they lie are found, and read there."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import onnx_model
from tvm import IRModule
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import relaxc
from relaxc import cpu
from relaxc.layout import Precision
from relaxc.targets.llvm.alignment import ANY_ALIGNMENT, mark_inputs, unaligned_inputs


@I.ir_module
class Before:
    @T.prim_func
    def reads(x: T.Buffer((4,), "float32"), w: T.Buffer((4,), "float32")):
        T.func_attr({"relaxc.any_alignment": [0]})
        w[0] = x[0]

    @R.function
    def main(
        once: R.Tensor((4,), "float32"),
        twice: R.Tensor((4,), "float32"),
        returned: R.Tensor((4,), "float32"),
    ):
        cls = Before
        with R.dataflow():
            a = R.call_tir(cls.reads, (once,), out_ty=R.Tensor((4,), "float32"))
            b = R.call_tir(cls.reads, (twice,), out_ty=R.Tensor((4,), "float32"))
            c = R.add(twice, b)
            d = (a, c, returned)
            R.output(d)
        return d


def _image_model() -> onnx.ModelProto:
    return onnx_model(
        """g (float[1,3,120,110] x) => (float[n,c,h,w] y) {
            a = Conv <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x, w)
            y = Relu (a)
        }""",
        w=np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32),
    )


def test_only_what_every_reader_takes_anywhere_is_marked() -> None:
    mod: IRModule = mark_inputs(Before)
    assert [int(i) for i in mod["main"].attrs[ANY_ALIGNMENT]] == [0]
    assert unaligned_inputs(mod) == (0,)
    assert unaligned_inputs(Before) == ()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_image_is_read_where_it_lies(precision: Precision, tmp_path: Path) -> None:
    if precision == "bfloat16" and "avx512bf16" not in cpu.features():
        pytest.skip("needs a CPU with dot products of bfloat16")
    model, path = _image_model(), tmp_path / "image.rxc"
    relaxc.compile(model, path, relaxc.CompileOptions(precision=precision))
    loaded = relaxc.load(path)
    assert loaded.manifest["inputs"][0]["any_alignment"]
    memory = np.full(3 * 120 * 110 + 32, np.nan, np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for shift in (0, 1, 5, 11):
        x = memory[shift : shift + 3 * 120 * 110].reshape(1, 3, 120, 110)
        x[...] = np.random.default_rng(shift).standard_normal(x.shape)
        runner = loaded._idle[0]
        result = loaded.run({"x": x})["y"]
        assert runner._handed[0][0] == x.ctypes.data
        wanted = session.run(None, {"x": x})[0]
        bound = 2e-2 if precision == "bfloat16" else 1e-5
        assert np.linalg.norm(result - wanted) <= bound * np.linalg.norm(wanted)
