"""Classify PrimFuncs for fusion: elementwise, broadcast, injective, reduction or opaque.

The classes are TVM's. Two kinds are corrected to opaque. A kernel of the target's library is
finished: nothing can be fused into it. And a PrimFunc that is given a symbolic dimension which
none of the buffers has that it reads (`shape_to_tensor`, or an empty result of computed size)
cannot be merged by `fuse-tir` (TVM 0.27 fails an internal check: the dimension is both a parameter
and a variable of the group).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax, tirx
from tvm.tirx.buffer import BufferType

from relaxc.passes.base import Pass

_OPAQUE = 8


@dataclass(frozen=True)
class AnnotatePatterns(Pass):
    """Set the attribute `op_pattern` on every PrimFunc."""

    name: ClassVar[str] = "annotate-patterns"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Annotate every PrimFunc of the module."""
        out = relax.transform.AnnotateTIROpPattern()(mod.clone())
        for gvar, func in out.functions_items():
            if not isinstance(func, tirx.PrimFunc):
                continue
            is_kernel = "tirx.is_scheduled" in func.attrs
            if is_kernel or _reads_foreign_dimension(func):
                out[gvar] = func.with_attr("op_pattern", _OPAQUE)
        return out


def _reads_foreign_dimension(func: tirx.PrimFunc) -> bool:
    # Inputs, dimensions, outputs.
    inputs = itertools.takewhile(lambda param: isinstance(param.ty, BufferType), func.params)
    owned = {
        var for param in inputs for dim in param.shape for var in tirx.analysis.undefined_vars(dim)
    }
    return any(p not in owned for p in func.params if not isinstance(p.ty, BufferType))
