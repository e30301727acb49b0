"""Find the best few of an axis without sorting all of it.

Before:                                                After:
    gv = R.topk(x, k=3, axis=1, ret_type="indices")        gv = R.call_tir(top_k, (x,), ...)

Fires when: the target has a kernel for this count.
Otherwise:  lv = R.argsort(x, axis=1, descending=True); gv = R.strided_slice(lv, [1], [0], [3])
Exact: of equal elements the first counts as the larger, as in ONNX.
Must run before: legalize-ops, whose loops for `topk` are not stable on all targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import tvm
from tvm import IRModule, relax

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.layout.lower_groups import LoweredKernel


class TopKLibrary(Protocol):
    """What the pass asks of a target."""

    def lower_top_k(
        self, shape: Sequence[Any], axis: int, count: int, largest: bool, dtype: str
    ) -> LoweredKernel | None:
        """A kernel over the data, then the positions; None where sorting is as good."""


@dataclass(frozen=True)
class LowerTopK(Pass):
    """Replace `topk` by a kernel, or by sorting.

    Attributes:
        library: the target's kernels.
    """

    library: TopKLibrary

    name: ClassVar[str] = "lower-top-k"
    opt_level: ClassVar[int] = 0
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        builder = relax.BlockBuilder(mod)

        def rewritten(block: relax.BindingBlock) -> list[relax.Binding]:
            result: list[relax.Binding] = []
            for binding in block.bindings:
                value: Any = getattr(binding, "value", None)
                is_call = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)
                if is_call and value.op.name == "relax.topk":
                    result += self._lowered(builder, binding)
                else:
                    result.append(binding)
            return result

        return rewrite_main(builder, rewritten)

    def _lowered(self, builder: relax.BlockBuilder, binding: relax.Binding) -> list[relax.Binding]:
        call = binding.value
        (data,), attrs, shape = call.args, call.attrs, call.args[0].ty.shape
        axis, count, largest = int(attrs.axis), int(attrs.k), bool(attrs.largest)
        assert str(attrs.ret_type) == "indices", "the import emits no other"
        dtype = str(data.ty.dtype.dtype)
        kernel = None
        if isinstance(shape, relax.ShapeExpr):
            axis %= len(shape.values)
            kernel = self.library.lower_top_k(list(shape.values), axis, count, largest, dtype)
        if kernel is not None:
            gvar = builder.add_func(kernel.func, kernel.name)
            value = builder.normalize(relax.call_tir(gvar, [data], call.ty))
            return [relax.VarBinding(binding.var, value)]
        order = builder.normalize(relax.op.argsort(data, axis, largest, "int64"))
        var = relax.DataflowVar("order", order.ty)
        value = builder.normalize(relax.op.strided_slice(var, [axis], [0], [count], [1]))
        return [relax.VarBinding(var, order), relax.VarBinding(binding.var, value)]
