"""A module for the shapes of its first sample, where pieces of it are to run."""

from __future__ import annotations

import tvm
from tvm import IRModule, relax

from relaxc.passes.prune.segments import Arrays


def at_one_shape(mod: IRModule, samples: list[Arrays]) -> tuple[IRModule, list[Arrays]]:
    """The module for the first sample's shapes, and the samples that have them.

    Pieces of a module cannot tell symbols from values whose shapes are sums of them.
    """
    shapes = [array.shape for array in samples[0]]
    sizes = {
        dim: size
        for param, shape in zip(mod["main"].params, shapes)
        for dim, size in zip(param.ty.shape.values, shape)
        if isinstance(dim, tvm.tirx.Var)
    }
    if not sizes:
        return mod, samples
    alike = [sample for sample in samples if [array.shape for array in sample] == shapes]
    return relax.transform.BindSymbolicVars(sizes, "main")(mod), alike
