"""The oracle of channel pruning: the dense module, with the weights that read a channel at zero."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.blocks import rewrite_main
from relaxc.passes.prune.dependency import Dependencies
from relaxc.passes.prune.operands import tensor_operands, with_operands


def masked(mod: IRModule, found: Dependencies, removed: Collection[int]) -> IRModule:
    """`mod` with zeros where a removed channel is read; every shape stays."""
    gone = np.array(sorted(removed))
    zeroed: dict[tuple[relax.Var, int], list[int]] = {}
    for use, axis in found.contractions:
        zeroed.setdefault(use, []).append(axis)

    def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
        return [_rewritten(binding) for binding in block.bindings]

    def _rewritten(binding: relax.Binding) -> relax.Binding:
        if not isinstance(binding.value, relax.Call):
            return binding
        operands = tensor_operands(binding.value)
        for position, operand in enumerate(operands):
            for axis in zeroed.get((binding.var, position), []):
                channels = found.weights[binding.var, position][axis]
                if channels is None:
                    continue
                array = np.array(operand.value.numpy())
                np.moveaxis(array, axis, 0)[np.isin(channels, gone)] = 0
                operands[position] = relax.const(array)
        call = binding.value
        if not any((binding.var, p) in zeroed for p in range(len(operands))):
            return binding
        new = relax.Call(call.op, with_operands(call, operands), call.attrs, call.ty_args)
        return relax.VarBinding(binding.var, relax.BlockBuilder().normalize(new))

    return rewrite_main(relax.BlockBuilder(mod), rewrite)
