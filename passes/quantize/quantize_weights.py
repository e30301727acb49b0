"""Make the weights of matrix products integers; the arithmetic stays float.

Before:                                  After:
    lv = R.matmul(x, w)                      d = R.dequantize(integers, scale, zero, axis=0)
                                             r = R.reshape(d, (columns, depth))
                                             p = R.permute_dims(r)
                                             lv = R.matmul(x, p)

Rounds to nearest, with a scale per column, or per column and group of rows. Symmetric: zero points
are 0 of int8, integers lie in [-127, 127] or [-8, 7]: with four bits the element that is largest in
magnitude becomes -8, so that none of the sixteen values is wasted.
Fires when: 1. the right side is a constant float32 matrix;
            2. its rows fill whole groups;
            3. it is not excluded.
Leaves alone: convolutions, products of two activations.
Must run before: group-ops, which takes the chain into the product's group.
Reference: Dettmers and Zettlemoyer, The case for 4-bit precision, 2023 (why groups).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.fuse.outline import operator_call
from relaxc.passes.quantize.exclusion import Exclusion, node_of, without_float_nodes


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Round the weights of products.

    Attributes:
        bits: of an integer.
        group: rows that share a scale; None: a whole column does.
        exclude: nodes that stay float: names, or regular expressions that match whole names.
    """

    bits: Literal[4, 8] = 8
    group: int | None = None
    exclude: tuple[str, ...] = ()

    name: ClassVar[str] = "quantize-weights"
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Rewrite `main`.

        Raises:
            OptionError: what is excluded matches no node.
        """
        exclusion = Exclusion.of(mod, self.exclude)
        exclusion.check(mod)
        builder = relax.BlockBuilder(without_float_nodes(mod))

        def rewrite(block: relax.BindingBlock) -> Sequence[relax.Binding]:
            result: list[relax.Binding] = []
            for binding in block.bindings:
                dataflow = isinstance(block, relax.DataflowBlock)
                if dataflow and self._applies(binding) and not exclusion.has(node_of(binding)):
                    result.extend(self._quantized(builder, binding))
                else:
                    result.append(binding)
            return result

        return rewrite_main(builder, rewrite)

    def nodes(self, mod: IRModule) -> list[str]:
        """Nodes whose weights are rounded."""
        exclusion, blocks = Exclusion.of(mod, self.exclude), mod["main"].body.blocks
        return [
            node_of(binding)
            for block in blocks
            if isinstance(block, relax.DataflowBlock)
            for binding in block.bindings
            if self._applies(binding) and not exclusion.has(node_of(binding))
        ]

    def _applies(self, binding: relax.Binding) -> bool:
        call = operator_call(binding)
        if call is None or call.op.name != "relax.matmul":
            return False
        data, weight = call.args
        if isinstance(data, GenericConst) or not isinstance(weight, GenericConst):  # 1.
            return False
        if weight.ty.ndim != 2 or str(weight.ty.dtype.dtype) != "float32":
            return False
        return int(weight.ty.shape.values[0]) % (self.group or 1) == 0  # 2.

    def _quantized(
        self, builder: relax.BlockBuilder, binding: relax.Binding
    ) -> list[relax.Binding]:
        call, name = binding.value, binding.var.name
        weight = call.args[1].value.numpy()
        depth, columns = weight.shape
        rows = np.ascontiguousarray(weight.T).reshape(-1, self.group or depth)
        integers, scale = round_groups(rows, self.bits)
        zero = np.zeros(scale.shape, np.int8)
        result: list[relax.Binding] = []

        def emit(value: relax.Expr, suffix: str) -> relax.Var:
            value = builder.normalize(value)
            result.append(relax.VarBinding(relax.DataflowVar(f"{name}.{suffix}", value.ty), value))
            return result[-1].var

        constants = [relax.const(array, array.dtype.name) for array in (integers, scale, zero)]
        real = emit(relax.op.dequantize(*constants, axis=0), "weight")
        whole = emit(relax.op.reshape(real, (columns, depth)), "rows")
        moved = emit(relax.op.permute_dims(whole), "moved")
        product = relax.Call(call.op, [call.args[0], moved], call.attrs, call.ty_args, call.span)
        return [*result, relax.VarBinding(binding.var, builder.normalize(product))]


def round_groups(rows: np.ndarray, bits: Literal[4, 8]) -> tuple[np.ndarray, np.ndarray]:
    """Integers as int8, and the scale, of each row."""
    if bits == 8:
        scale = np.abs(rows).max(axis=1) / np.float32(127)
    else:
        where = np.abs(rows).argmax(axis=1)
        scale = rows[np.arange(len(rows)), where] / np.float32(-8)
    scale = np.where(scale == 0, np.float32(1), scale).astype(np.float32)
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    integers = np.clip(np.rint(rows / scale[:, None]), low, high).astype(np.int8)
    return integers, scale
