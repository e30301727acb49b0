"""Quantized tensors are stored as integers."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relaxc.layout import ELEMENTS
from relaxc.passes.quantize.realize import RealizeQuantization

SCALE, ZERO = np.float32(0.5), np.uint8(3)


@I.ir_module
class Before:
    @R.function(private=True)
    def conv(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
        R.func_attr({"kernel": "conv2d"})
        with R.dataflow():
            gv = R.nn.relu(x)
            R.output(gv)
        return gv

    @R.function(private=True)
    def conv_1(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
        R.func_attr({"kernel": "conv2d"})
        with R.dataflow():
            gv = R.nn.relu(x)
            R.output(gv)
        return gv

    @R.function
    def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
        cls = Before
        with R.dataflow():
            q = R.quantize(x, R.const(SCALE), R.const(ZERO), out_dtype="uint8")
            d = R.dequantize(q, R.const(SCALE), R.const(ZERO))
            lv = cls.conv(d)
            q1 = R.quantize(lv, R.const(SCALE), R.const(ZERO), out_dtype="uint8")
            d1 = R.dequantize(q1, R.const(SCALE), R.const(ZERO))
            gv = cls.conv_1(d1)
            R.output(gv)
        return gv


@I.ir_module
class Expected:
    @R.function(private=True)
    def conv(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
        R.func_attr({"elements": ["uint8*0.5-3", "uint8*0.5-3"], "kernel": "conv2d"})
        with R.dataflow():
            gv = R.nn.relu(x)
            R.output(gv)
        return gv

    @R.function(private=True)
    def conv_1(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
        R.func_attr({"elements": ["uint8*0.5-3", "float32"], "kernel": "conv2d"})
        with R.dataflow():
            gv = R.nn.relu(x)
            R.output(gv)
        return gv

    @R.function
    def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
        cls = Expected
        with R.dataflow():
            lv = cls.conv(x)
            gv = cls.conv_1(lv)
            R.output(gv)
        return gv


def with_reader(mod: tvm.IRModule) -> tvm.IRModule:
    """The module, with one more reader of the value before it is rounded."""
    main = mod["main"]
    block = main.body.blocks[0]
    lv = next(b.var for b in block.bindings if b.var.name == "lv")
    last = block.bindings[-1]
    held = relax.DataflowVar("held", last.var.ty)
    total = relax.op.add(held, lv)
    bindings = [*block.bindings[:-1], relax.VarBinding(held, last.value)]
    bindings.append(relax.VarBinding(last.var, total))
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], main.body.body)
    out = mod.clone()
    out["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return relax.transform.Normalize()(out)


def elements(mod: tvm.IRModule) -> dict[str, list[str]]:
    return {
        gvar.name_hint: [str(e) for e in func.attrs[ELEMENTS]]
        for gvar, func in mod.functions_items()
        if func.attrs and ELEMENTS in func.attrs
    }


def test_golden() -> None:
    text = Before.script()
    after = RealizeQuantization().apply(Before)
    relax.analysis.well_formed(after)
    tvm.ir.assert_structural_equal(after, Expected)
    assert Before.script() == text


def test_what_is_read_exactly_stays_float() -> None:
    after = RealizeQuantization().apply(with_reader(Before))
    relax.analysis.well_formed(after)
    assert elements(after) == {
        "conv": ["uint8*0.5-3", "float32"],
        "conv_1": ["uint8*0.5-3", "float32"],
    }


def test_nothing_quantized_nothing_changed() -> None:
    tvm.ir.assert_structural_equal(RealizeQuantization().apply(Expected), Expected)
