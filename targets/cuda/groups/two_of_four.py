"""Which products leave out zeros, two of every four neighbours of a weight.

Of pairs, both are products of their own then: a layer of Llama takes 0.87 of its dense time on an
H200, with one dense kernel for the pair 0.89.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import replace

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relaxc.layout import SPARSITY, Element
from relaxc.targets.cuda.groups import few_rows
from relaxc.targets.cuda.groups.base import Context, Group
from relaxc.targets.cuda.kernels.frame import as_element
from relaxc.targets.cuda.kernels.kernel import Kernel
from relaxc.targets.cuda.kernels.sparse_packing import has_two_of_four, pack_two_of_four
from relaxc.targets.cuda.kernels.tilings import Tiling, resident_clusters
from relaxc.targets.cuda.machine import Gpu
from relaxc.targets.llvm.kernels.constants import array_of
from relaxc.targets.llvm.kernels.domain import as_int

# Below, the dense kernel may be as fast; from there on, an H200 took 0.96 to 0.69 of its time.
_LEAST_PRODUCTS = 1 << 33
_COST = 0.8
# Where rows are known at run time only.
_UNKNOWN_ROWS = 1024
_TILINGS = tuple(
    Tiling(rows, 256, rows, 128, stages, True, 1, m, n, is_sparse=True)
    for rows, stages in ((128, 3), (64, 4))
    for m, n in ((2, 1), (1, 2), (2, 2), (1, 1))
)


def is_worthwhile(group: Group, context: Context) -> bool:
    """Whether a group leaves out the zeros of its weight."""
    return group.other is None and group.prologue is None and can_be(group.anchor, context)


def can_be(call: relax.Call, context: Context) -> bool:
    """Whether a product has such a weight, and whole vectors of data, of which there are many."""
    weight = call.args[1]
    if context.has_float8 or context.mode not in ("float16", "bfloat16"):
        return False
    if not context.gpu.has_joint_products or not isinstance(weight, GenericConst):
        return False
    if weight.ty.ndim != 2 or few_rows.count(call) is not None:
        return False
    depth, columns = (int(dim) for dim in weight.ty.shape.values)
    if depth % 8 or columns % 8 or _rows(call) * depth * columns < _LEAST_PRODUCTS:
        return False
    return has_two_of_four(array_of(weight))


def marked(kernel: Kernel, weight: np.ndarray) -> Kernel:
    """A kernel that says what it leaves out, for reports."""
    zeros = float((weight == 0).mean())
    stated = {"zeros": zeros, "zero_blocks": 0.0, "cost": _COST, "method": "2:4"}
    return replace(kernel, func=kernel.func.with_attr(SPARSITY, stated))


def _rows(call: relax.Call) -> int:
    dims = [as_int(dim) for dim in call.args[0].ty.shape.values[:-1]]
    known = functools.reduce(operator.mul, (dim for dim in dims if dim is not None), 1)
    return known * (_UNKNOWN_ROWS if None in dims else 1)


def packed(weight: np.ndarray, element: Element, columns: int) -> np.ndarray:
    """What is left of a matrix, as a tiling of so many columns wants it."""
    return pack_two_of_four(as_element(weight, element).view(np.uint16), columns).view(np.int8)


def tiling_for(rows: int | None, columns: int, gpu: Gpu) -> Tiling:
    """The tiling by which multiprocessors are done first."""

    def cost(t: Tiling) -> float:
        steps = -(-(rows or _UNKNOWN_ROWS) // (t.rows * t.share_rows))
        steps *= -(-columns // (t.columns * t.share_columns))
        rounds = -(-steps // resident_clusters(t, gpu))
        fetched = 2 * t.rows * 128 / t.share_columns + t.columns * 144 / t.share_rows
        return rounds * max(t.rows * t.columns / 38.0, fetched / 50.0)

    return min(_TILINGS, key=cost)
