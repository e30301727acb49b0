"""The oracle of channel pruning: the dense module, with the weights that read a channel at zero."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import tvm
from tvm import IRModule, relax
from virtual_machine import virtual_machine

from relaxc.passes.blocks import rewrite_main
from relaxc.passes.prune.dependency import Dependencies, dependencies
from relaxc.passes.prune.operands import tensor_operands, with_operands
from relaxc.passes.prune.remove import remove_channels


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


def run(mod: IRModule, *inputs: np.ndarray) -> np.ndarray:
    vm = virtual_machine(mod)
    result = vm["main"](*(tvm.runtime.tensor(array) for array in inputs))
    return np.asarray((result if hasattr(result, "numpy") else result[0]).numpy())


def check_removal(mod: IRModule, x: np.ndarray, seed: int = 0) -> IRModule:
    """Remove about half of every group, compare with the oracle, and return the small module."""
    found = dependencies(mod)
    assert found.groups
    rng = np.random.default_rng(seed)
    removed = [
        c
        for group in found.groups
        for c in rng.choice(group.channels, max(1, len(group.channels) // 2), replace=False)
        if len(group.channels) > 1
    ]
    text = mod.script()
    small = remove_channels(mod, found, removed)
    relax.analysis.well_formed(small)
    assert mod.script() == text
    expected, dense = run(masked(mod, found, removed), x), run(mod, x)
    np.testing.assert_allclose(run(small, x), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - dense).max() > 1e-3  # it made a difference
    return small
