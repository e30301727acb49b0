"""Take back what rounding adds to a layer's result in the mean.

Before:                                  After:
    q1 = R.dequantize(int8 w, ...)           q1 = R.dequantize(int8 w, ...)
    lv = R.nn.conv2d(q, q1)                  lv = R.nn.conv2d(q, q1)
    gv = R.add(lv, bias)                     gv = R.add(lv, bias - shift)
where shift is the mean error of each channel on samples. A layer without a bias gets one.

Rounded weights and clipped ranges move the mean of a channel, and the layers below take the moved
mean for signal; depthwise convolutions, which sum nine numbers, suffer most.
Fires when: a convolution or product is computed on rounded data and weights, and samples are there.
Leaves alone: everything where there are no samples.
Must run after: calibrate-quantization. Must run before: group-ops.
Reference: Nagel et al., Data-free quantization through weight equalization and bias correction,
ICCV 2019, appendix D: the empirical form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import BindingGraph, operator_call
from relaxc.passes.quantize.layer_errors import LayerError, rounded_layers


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Correct the biases of quantized layers.

    Attributes:
        errors: of every layer of the module.
    """

    errors: Callable[[IRModule], list[LayerError]]

    name: ClassVar[str] = "correct-bias"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Correct `main`."""
        shifts = {e.name: e.shift.astype(np.float32) for e in self.errors(mod) if np.any(e.shift)}
        rounded = rounded_layers(mod)
        shifts = {name: shift for name, shift in shifts.items() if name in rounded}
        if not shifts:
            return mod

        def correct(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            if not isinstance(block, relax.DataflowBlock):
                return list(block.bindings)
            return _corrected(list(block.bindings), shifts)

        return rewrite_main(relax.BlockBuilder(mod), correct)


def _corrected(bindings: list[relax.Binding], shifts: dict[str, np.ndarray]) -> list[relax.Binding]:
    graph = BindingGraph(bindings)
    builder = relax.BlockBuilder()
    result = list(bindings)
    added: dict[int, tuple[relax.Binding, relax.Binding]] = {}
    for index, binding in enumerate(bindings):
        shift = shifts.get(str(binding.var.name))
        if shift is None or operator_call(binding) is None:
            continue
        shift = _aligned(shift, binding)
        users = graph.users[index]
        is_read_once = len(users) == 1 and not graph.leaves[index]
        bias = _bias(binding, bindings[users[0]], shift.size) if is_read_once else None
        if bias is not None:
            call = bindings[users[0]].value
            old = bias.value.numpy()
            new = relax.const(np.asarray(old - shift.reshape(old.shape), np.float32))
            args = [new if arg.same_as(bias) else arg for arg in call.args]
            value = builder.normalize(relax.Call(call.op, args, call.attrs))
            result[users[0]] = relax.VarBinding(bindings[users[0]].var, value)
            continue
        # What read the layer's variable reads the corrected one, which takes its place.
        raw = relax.DataflowVar(f"{binding.var.name}.raw", binding.var.ty)
        corrected = builder.normalize(relax.op.subtract(raw, relax.const(shift)))
        added[index] = (
            relax.VarBinding(raw, binding.value),
            relax.VarBinding(binding.var, corrected),
        )
    flat: list[relax.Binding] = []
    for index, binding in enumerate(result):
        flat.extend(added.get(index, (binding,)))
    return flat


def _aligned(shift: np.ndarray, binding: relax.Binding) -> np.ndarray:
    """One number per channel, shaped so that it can be added to the result."""
    if binding.value.op.name == "relax.matmul":
        return shift
    return shift.reshape(-1, *[1] * (binding.var.ty.ndim - 2))


def _bias(binding: relax.Binding, user: relax.Binding, size: int) -> GenericConst | None:
    """The constant per channel that is added next."""
    var, call = binding.var, operator_call(user)
    is_product = binding.value.op.name == "relax.matmul"
    if call is None or call.op.name != "relax.add":
        return None
    left, right = call.args
    other = right if left.same_as(var) else left
    if not isinstance(other, GenericConst) or str(other.ty.dtype.dtype) != "float32":
        return None
    axis = var.ty.ndim - 1 if is_product else 1
    aligned = [1] * (var.ty.ndim - other.value.ndim) + list(other.value.shape)
    fits = all(n == (size if i == axis else 1) for i, n in enumerate(aligned))
    return other if fits else None
