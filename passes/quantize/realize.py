"""Store quantized tensors as integers, so that the kernels around them compute on integers.

Before:                                        After:
    lv = conv2d_0(x)                               lv = conv2d_0(x)
    lv1 = R.quantize(lv, scale, zero)              gv = conv2d_1(lv)
    lv2 = R.dequantize(lv1, scale, zero)           where the attribute `elements` of both groups
    gv = conv2d_1(lv2)                             says that lv is stored as uint8*scale-zero

Types stay logical (float32): kernels convert what they read and write, and multiply integers where
both operands are. choose-layout inserts the conversions that are left, such as that of an input.

A group's result is stored as integers if nothing reads it as it was before it was rounded.
Readers that are no groups keep both operators unless the tensor is stored as integers: rounding
also clips, and exporters rely on that for ReLU.
Fires when: scale and zero point are one constant each, and equal on both sides.
Leaves alone: integers that are inputs or outputs of the model; legalize-ops lowers these.
Must run after: group-ops. Must run before: choose-layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.layout import CONCAT, ELEMENTS, KERNEL, MOVES, VIEW, Element, Quantization
from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main, substitute, with_value
from relaxc.passes.fuse.outline import operator_call


@dataclass(frozen=True)
class RealizeQuantization(Pass):
    """Turn pairs of quantize and dequantize into elements of groups."""

    name: ClassVar[str] = "realize-quantization"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main` and annotate groups."""
        return _Realizer(mod).rewrite()


class _Realizer:
    def __init__(self, mod: IRModule) -> None:
        self.mod = mod
        self.builder = relax.BlockBuilder(mod)

    def rewrite(self) -> IRModule:
        return rewrite_main(self.builder, self._block)

    def _block(self, block: relax.BindingBlock) -> list[relax.Binding]:
        bindings = list(block.bindings)
        pairs = _pairs(bindings)
        if not pairs:
            return bindings
        stored = self._stored(bindings, pairs)
        result: list[relax.Binding] = []
        for binding in bindings:
            replaced = {
                var: source
                for var, (source, _) in pairs.items()
                if source in stored or self._converts(binding)
            }
            self._annotate(binding, pairs, stored)
            result.append(with_value(binding, substitute(_value(binding), replaced)))
        return _without_dead_rounding(result)

    def _converts(self, binding: relax.Binding) -> bool:
        """Whether a binding rounds what it reads, being a group that reads integers."""
        func = self._group(binding)
        return func is not None and func.attrs[KERNEL] != CONCAT

    def _stored(
        self, bindings: list[relax.Binding], pairs: dict[relax.Var, tuple[relax.Var, Element]]
    ) -> dict[relax.Var, Element]:
        """Tensors that are stored as integers: results of groups, and moves of these."""
        wanted: dict[relax.Var, Element] = {}
        rounded = dict(pairs.values())
        exact = {
            v
            for b in bindings
            for v in relax.analysis.free_vars(_value(b))
            # Rounding twice alike is rounding once.
            if v in rounded and not (_is_quantize(b) and _element(b.value) == rounded[v])
        } | {b.var for b in bindings if _leaves(b)}
        for binding in bindings:
            var = binding.var
            if var in rounded and var not in exact and self._group(binding) is not None:
                wanted[var] = rounded[var]
        return wanted

    def _annotate(
        self,
        binding: relax.Binding,
        pairs: dict[relax.Var, tuple[relax.Var, Element]],
        stored: dict[relax.Var, Element],
    ) -> None:
        func = self._group(binding)
        if func is None:
            call = operator_call(binding)
            if call is not None and call.op.name in MOVES:
                source = pairs.get(call.args[0], (call.args[0], ""))[0]
                if source in stored:
                    stored[binding.var] = stored[source]
            return
        params: list[Element] = []
        for arg in binding.value.args:
            default = stored.get(arg, "float32")
            params.append(pairs[arg][1] if arg in pairs else default)
        result = stored.get(binding.var, "float32")
        if func.attrs[KERNEL] == VIEW:
            result = params[0]
        if func.attrs[KERNEL] == CONCAT:
            # All operands lie in one buffer.
            params = [result] * len(params)
        if any(element != "float32" for element in (*params, result)):
            annotated = func.with_attr(ELEMENTS, [*params, result])
            self.builder.update_func(binding.value.op, annotated)

    def _group(self, binding: relax.Binding) -> relax.Function | None:
        value = _value(binding)
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
            func = self.mod[value.op]
            if isinstance(func, relax.Function) and func.attrs and KERNEL in func.attrs:
                return func
        return None


def _pairs(bindings: list[relax.Binding]) -> dict[relax.Var, tuple[relax.Var, Element]]:
    """Each dequantized variable -> what was quantized, and the element that it is stored as."""
    integers: dict[relax.Var, tuple[relax.Var, Element]] = {}
    pairs: dict[relax.Var, tuple[relax.Var, Element]] = {}
    for binding in bindings:
        call = operator_call(binding)
        element = _element(call) if call is not None else None
        if call is None or element is None or not isinstance(call.args[0], relax.Var):
            continue
        if call.op.name == "relax.quantize":
            integers[binding.var] = call.args[0], element
        elif integers.get(call.args[0], (None, ""))[1] == element and not _leaves(binding):
            source = integers[call.args[0]][0]
            # Rounding twice alike is rounding once; otherwise, the first one counts too.
            first = pairs.get(source, (source, element))
            pairs[binding.var] = (first[0] if first[1] == element else source), element
    return pairs


def _element(call: relax.Call) -> Element | None:
    """How the integers of `quantize` and `dequantize` are stored; None for what kernels cannot."""
    if call.op.name not in ("relax.quantize", "relax.dequantize"):
        return None
    if not all(isinstance(arg, GenericConst) for arg in call.args[1:]):
        return None
    scale, zero = (arg.value.numpy() for arg in call.args[1:])
    integers, real = (call, call.args[0])[:: 1 if call.op.name == "relax.quantize" else -1]
    dtype = str(integers.ty.dtype.dtype)
    if scale.size != 1 or dtype not in ("uint8", "int8") or str(real.ty.dtype.dtype) != "float32":
        return None
    # int8 is uint8 seen from another zero.
    shift = 128 if dtype == "int8" else 0
    return Quantization(float(np.float32(scale.item())), int(zero.item()) + shift).element


def _without_dead_rounding(bindings: list[relax.Binding]) -> list[relax.Binding]:
    """The bindings without `quantize` and `dequantize` that nothing reads any more."""
    kept: list[relax.Binding] = []
    read: set[relax.Var] = set()
    for binding in reversed(bindings):
        call = operator_call(binding)
        rounds = call is not None and call.op.name in ("relax.quantize", "relax.dequantize")
        if rounds and binding.var not in read and not _leaves(binding):
            continue
        read.update(relax.analysis.free_vars(_value(binding)))
        kept.append(binding)
    return kept[::-1]


def _is_quantize(binding: relax.Binding) -> bool:
    call = operator_call(binding)
    return call is not None and call.op.name == "relax.quantize"


def _leaves(binding: relax.Binding) -> bool:
    return not isinstance(binding.var, relax.DataflowVar)


def _value(binding: relax.Binding) -> relax.Expr:
    return binding.value
