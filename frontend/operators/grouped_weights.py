"""Constant weights with a scale per group of neighbours, in the form that passes and kernels know.

    d = R.dequantize(integers, scale, zero_point, axis=0)     one group to a row
    r = R.reshape(d, ...)                                     the weight, grouped axis last
    w = R.permute_dims(r, ...)                                unless it is last anyhow

Integers of four bits (or two) are carried as int8 or uint8; kernels see from their values how few
bits they need. A matrix product with such a `w` reads the packed integers.
"""

from __future__ import annotations

import numpy as np
from tvm import relax


def dequantized_groups(
    bb: relax.BlockBuilder,
    integers: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    axis: int,
) -> relax.Expr:
    """Emit the form above.

    Args:
        bb: where to.
        integers: int8, uint8 or float8_e4m3fn, whatever its rank.
        scale: float32; along `axis` one for as many neighbours as it has fewer elements.
        zero_point: int8 or uint8, shaped like `scale`.
        axis: the grouped axis.
    """
    group = integers.shape[axis] // scale.shape[axis]
    assert group * scale.shape[axis] == integers.shape[axis], "groups must be whole"
    moved, scales, zeros = (np.moveaxis(a, axis, -1) for a in (integers, scale, zero_point))
    rows = np.ascontiguousarray(moved).reshape(-1, group)
    result = bb.emit(
        relax.op.dequantize(
            relax.const(rows, rows.dtype.name),
            relax.const(np.ascontiguousarray(scales).reshape(-1), "float32"),
            relax.const(np.ascontiguousarray(zeros).reshape(-1), zeros.dtype.name),
            axis=0,
        )
    )
    result = bb.emit(relax.op.reshape(result, moved.shape))
    if axis % integers.ndim == integers.ndim - 1:
        return result
    order = list(range(integers.ndim - 1))
    order.insert(axis % integers.ndim, integers.ndim - 1)
    return bb.emit(relax.op.permute_dims(result, order))
