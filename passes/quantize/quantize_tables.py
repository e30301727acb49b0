"""Store tables of embeddings as int8, with a scale per row; large ones with four bits, if wanted.

Before:                                  After:
    y = R.take(table, indices, axis=0)       q = R.take(integers, indices, axis=0)
                                             s = R.take(scales, indices, axis=0)
                                             r = R.astype(q, "float32")
                                             y = R.multiply(r, s)

A quarter of the size, where embeddings are half of a small language model; a row is read at a time,
so that the work is nothing. Rounds to nearest, symmetric, a row's largest number becomes 127.

With `bits=4`, for large tables (small ones are no burden, and lose more):
    q = R.take(packed, indices, axis=0)                  uint8 [..., width / 2]
    n = R.bitwise_and(R.right_shift(R.expand_dims(q, -1), [0, 4]), 15)
    y = (reshape(n, (..., groups, 64)) - 8) * scales     reshaped to (..., width)
A byte holds two neighbours, the first in its low bits. Every 64 numbers have the scale, out of
several, that loses least.
Fires when: 1. the table is a constant float32 matrix whose rows are taken;
            2. it has enough numbers to matter, and rows long enough to be worth a scale;
            3. it is not excluded.
Must run after: canonicalization. Must run before: legalize-ops.
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
from relaxc.passes.quantize.exclusion import Exclusion, node_of
from relaxc.passes.quantize.weight_kinds import round_groups

_FEWEST_NUMBERS, _SHORTEST_ROW = 1 << 15, 16
# From so many numbers on, four bits; of so many per scale.
_LARGE, _GROUP = 1 << 20, 64
# Of the scale with which the largest number becomes -8.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)


@dataclass(frozen=True)
class QuantizeTables(Pass):
    """Round tables of embeddings.

    Attributes:
        exclude: nodes that stay float: names, or regular expressions that match whole names.
        bits: of a number in large tables; those in others have eight.
    """

    exclude: tuple[str, ...] = ()
    bits: Literal[4, 8] = 8

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
                    narrow = self.bits == 4 and _is_large(binding.value.args[0])
                    result.extend((_narrow if narrow else _quantized)(builder, binding))
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
    integers, scale = round_groups(np.asarray(table.value.numpy()), "int8")
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


def _is_large(table: GenericConst) -> bool:
    rows, width = (int(size) for size in table.ty.shape.values)
    return rows * width >= _LARGE and width % _GROUP == 0


def _narrow(builder: relax.BlockBuilder, binding: relax.Binding) -> list[relax.Binding]:
    """The same with four bits."""
    call, name = binding.value, binding.var.name
    table, indices = call.args
    packed, scale = pack_rows(np.asarray(table.value.numpy()))
    *outer, width = binding.var.ty.shape.values
    result: list[relax.Binding] = []

    def emit(value: relax.Expr, suffix: str) -> relax.Var:
        value = builder.normalize(value)
        result.append(relax.VarBinding(relax.DataflowVar(f"{name}.{suffix}", value.ty), value))
        return result[-1].var

    def rows(array: np.ndarray, suffix: str) -> relax.Var:
        constant = relax.const(array, array.dtype.name)
        taken = emit(relax.op.take(constant, indices, 0, str(call.attrs.mode)), suffix)
        return emit(relax.op.expand_dims(taken, -1), f"{suffix}.wide")

    places, mask = relax.const(np.array([0, 4], np.uint8)), relax.const(15, "uint8")
    moved = emit(relax.op.right_shift(rows(packed, "packed"), places), "moved")
    integers = emit(relax.op.bitwise_and(moved, mask), "integers")
    groups = emit(relax.op.reshape(integers, (*outer, int(width) // _GROUP, _GROUP)), "groups")
    real = emit(relax.op.astype(groups, "float32"), "real")
    real = emit(relax.op.subtract(real, relax.const(8.0, "float32")), "centred")
    product = emit(relax.op.multiply(real, rows(scale, "scale")), "product")
    whole = builder.normalize(relax.op.reshape(product, (*outer, width)))
    return [*result, relax.VarBinding(binding.var, whole)]


def pack_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table with four bits: uint8 [rows, width / 2], and float32 [rows, groups] scales."""
    rows, width = table.shape
    groups = table.reshape(-1, _GROUP)
    _, widest = round_groups(groups, "int4")
    best, chosen = np.full(len(groups), np.inf), widest
    for share in _SHARES:
        scale = widest * np.float32(share)
        error = (_four_bits(groups, scale) * scale[:, None] - groups).astype(np.float32)
        lost = np.einsum("ij,ij->i", error, error)
        chosen = np.where(lost < best, scale, chosen)
        best = np.minimum(lost, best)
    integers = (_four_bits(groups, chosen) + 8).astype(np.uint8).reshape(rows, width)
    return integers[:, ::2] | integers[:, 1::2] << 4, chosen.reshape(rows, -1)


def _four_bits(groups: np.ndarray, scale: np.ndarray) -> np.ndarray:
    integers: np.ndarray = np.clip(np.rint(groups / scale[:, None]), -8, 7)
    return integers
