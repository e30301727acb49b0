"""Store tables of embeddings as int8, with a scale per row.

Before:                                  After:
    y = R.take(table, indices, axis=0)       q = R.take(integers, indices, axis=0)
                                             s = R.take(scales, indices, axis=0)
                                             r = R.astype(q, "float32")
                                             y = R.multiply(r, s)

A quarter of the size, where embeddings are half of a small language model; a row is read at a time,
so that the work is nothing. Rounds to nearest, symmetric, a row's largest number becomes 127.
Fires when: 1. the table is a constant float32 matrix whose rows are taken;
            2. it has enough numbers to matter, and rows long enough to be worth a scale;
            3. it is not excluded.
Must run after: canonicalization. Must run before: legalize-ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import operator_call
from relaxc.passes.quantize.exclusion import Exclusion, node_of
from relaxc.passes.quantize.quantize_weights import round_groups

_FEWEST_NUMBERS, _SHORTEST_ROW = 1 << 14, 16


@dataclass(frozen=True)
class QuantizeTables(Pass):
    """Round tables of embeddings.

    Attributes:
        exclude: nodes that stay float: names, or regular expressions that match whole names.
    """

    exclude: tuple[str, ...] = ()

    name: ClassVar[str] = "quantize-tables"

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`."""
        exclusion = Exclusion(self.exclude)
        builder = relax.BlockBuilder(mod)

        def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            result: list[relax.Binding] = []
            for binding in block.bindings:
                dataflow = isinstance(block, relax.DataflowBlock)
                if dataflow and _applies(binding) and not exclusion.has(node_of(binding)):  # 3.
                    result.extend(_quantized(builder, binding))
                else:
                    result.append(binding)
            return result

        return rewrite_main(builder, rewrite)


def _applies(binding: relax.Binding) -> bool:
    call = operator_call(binding)
    if call is None or call.op.name != "relax.take" or not isinstance(call.args[0], GenericConst):
        return False
    table = call.args[0].ty
    if table.ndim != 2 or str(table.dtype.dtype) != "float32" or int(call.attrs.axis or 0) != 0:
        return False  # 1.
    rows, width = (int(size) for size in table.shape.values)
    return rows * width >= _FEWEST_NUMBERS and width >= _SHORTEST_ROW  # 2.


def _quantized(builder: relax.BlockBuilder, binding: relax.Binding) -> list[relax.Binding]:
    call, name = binding.value, binding.var.name
    table, indices = call.args
    integers, scale = round_groups(np.asarray(table.value.numpy()), 8)
    result: list[relax.Binding] = []

    def emit(value: relax.Expr, suffix: str) -> relax.Var:
        value = builder.normalize(value)
        result.append(relax.VarBinding(relax.DataflowVar(f"{name}.{suffix}", value.ty), value))
        return result[-1].var

    def rows(array: np.ndarray, suffix: str) -> relax.Var:
        constant = relax.const(array, array.dtype.name)
        return emit(relax.op.take(constant, indices, 0, str(call.attrs.mode)), suffix)

    real = emit(relax.op.astype(rows(integers, "integers"), "float32"), "real")
    product = relax.op.multiply(real, rows(scale[:, None], "scale"))
    return [*result, relax.VarBinding(binding.var, builder.normalize(product))]
