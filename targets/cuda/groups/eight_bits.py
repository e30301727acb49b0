"""Which products are computed on floats of eight bits (e4m3), and how their weights become these.

Data get a scale per row as the model runs, weights one per column: their largest number becomes
e4m3's. Three bits behind the first one are left of each factor, of numbers 2^15 times smaller than
the largest of their row as well.
Reference: Micikevicius et al., FP8 formats for deep learning, 2022 (e4m3, and why scales).
"""

from __future__ import annotations

import functools
import operator

import ml_dtypes
import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.targets.cuda.groups import few_rows
from relaxc.targets.cuda.groups.base import Context, Group
from relaxc.targets.cuda.kernels.round_rows import MAX_DEPTH
from relaxc.targets.llvm.kernels.domain import as_int

# Above it, e4m3 has no numbers.
LARGEST = 448.0
# Below, rounding the data takes as long as it saves: measured on an H200, with BERT at batch 8.
_LEAST_PRODUCTS = 1 << 32
# Where rows are known at run time only.
_UNKNOWN_ROWS = 1024


def is_worthwhile(group: Group, context: Context) -> bool:
    """Whether a product is computed on e4m3: many rows, whole vectors, float weights."""
    calls = [group.anchor] if group.other is None else [group.anchor, group.other[1]]
    if not context.has_float8 or not all(map(_has_float_weight, calls)):
        return False
    # What the epilogue adds is no row to be multiplied.
    is_added = any(operand.expr.same_as(group.data) for operand in group.epilogue.operands)
    if is_added or few_rows.count(group.anchor) is not None:
        return False
    depth, columns = (int(dim) for dim in group.anchor.args[1].ty.shape.values)
    if depth % 16 or columns % 8 or depth > MAX_DEPTH:
        return False
    dims = [as_int(dim) for dim in group.anchor.args[0].ty.shape.values[:-1]]
    known = [dim for dim in dims if dim is not None]
    rows = functools.reduce(operator.mul, known, 1)
    rows *= 1 if len(known) == len(dims) else _UNKNOWN_ROWS
    return rows * depth * columns * len(calls) >= _LEAST_PRODUCTS


def _has_float_weight(call: relax.Call) -> bool:
    weight = call.args[1]
    return isinstance(weight, GenericConst) and weight.ty.ndim == 2


def rounded(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix as bits of e4m3, and what its columns are multiplied by."""
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / np.float32(LARGEST), 1).astype(np.float32)
    inside = np.clip(weight / scale, -LARGEST, LARGEST)
    return inside.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), scale
