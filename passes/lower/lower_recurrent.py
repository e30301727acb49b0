"""Put the target's kernel in the place of a recurrent layer's plain loops.

Before:                                        After:
    gv = R.call_tir(lstm_loops, (x, r, h0, c0))    gv = R.call_tir(lstm, (x, packed_r, h0, c0))

Fires when: the PrimFunc carries the attribute `relaxc.recurrent`, its recurrent weights are a
constant, and the target has a kernel for its sizes. Otherwise the loops stay: slow but correct.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst

from relaxc.layout import Element
from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.layout.lower_groups import LoweredKernel
from relaxc.recurrent.described import description


class RecurrentLibrary(Protocol):
    """What the pass asks of a target."""

    def lower_recurrent(
        self, func: tirx.PrimFunc, attrs: Mapping[str, Any], weight: np.ndarray, element: Element
    ) -> LoweredKernel | None:
        """A kernel with the parameters of `func`, whose weights are packed in its constants.

        `element` is how it may round what it multiplies.
        """


@dataclass(frozen=True)
class LowerRecurrent(Pass):
    """Replace recurrent loops by kernels.

    Attributes:
        library: the target's kernels.
        element: what weights and states may be rounded to, where they are multiplied.
    """

    library: RecurrentLibrary
    element: Element = "float32"

    name: ClassVar[str] = "lower-recurrent"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        builder = relax.BlockBuilder(mod)
        lowered = rewrite_main(
            builder, lambda block: [self._binding(builder, mod, b) for b in block.bindings]
        )
        return relax.transform.DeadCodeElimination()(lowered)

    def _binding(
        self, builder: relax.BlockBuilder, mod: IRModule, binding: relax.Binding
    ) -> relax.Binding:
        call = getattr(binding, "value", None)
        if not isinstance(call, relax.Call) or call.op.name != "relax.call_tir":
            return binding
        func = mod[call.args[0]]
        said = description(func)
        if said is None or not isinstance(call.args[1].fields[1], GenericConst):
            return binding
        gates, weight, *states = call.args[1].fields
        kernel = self.library.lower_recurrent(func, said, weight.value.numpy(), self.element)
        if kernel is None:
            return binding
        gvar = builder.add_func(kernel.func, kernel.name)
        packed = relax.const(kernel.constants[0])
        out = call.ty
        types = list(out.fields) if isinstance(out, relax.TupleType) else out
        lowered = relax.call_tir(gvar, [gates, packed, *states], types)
        return relax.VarBinding(binding.var, builder.normalize(lowered))
