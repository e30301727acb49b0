"""Round a matrix to a few bits so that its products change least. Pure arithmetic on arrays.

With C = X'X of the data X that the weight W is multiplied by, the error of a rounded Q is
tr((Q - W)' C (Q - W)). Scales are searched for, group by group, with the diagonal of C for weights
(Lin et al., AWQ, MLSys 2024, section on clipping). Rows are then rounded one by one, those of much
energy first, and the rows that are left take up the error (Frantar et al., GPTQ, ICLR 2023). At
last every integer is looked at again while the others stay, which can only lessen the error
(coordinate descent, as in Behdin et al., QuantEase, 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relaxc.passes.prune.products import Matrix
from relaxc.passes.quantize.weight_kinds import LARGEST_FLOAT8, round_groups, to_float8

# Shares of a group's range that scales are tried for.
_SHARES = np.linspace(0.5, 1.1, 25)
_DAMPING = 0.01
# With ten times as much each.
_ATTEMPTS = 12
_SWEEPS = 3
# Rows that are told of each other's errors at once; later ones wait for a product of matrices.
_BLOCK = 64


@dataclass(frozen=True)
class Grid:
    """What values a weight can take: integers times scales, in groups of rows.

    Attributes:
        group: rows that share a scale.
        low, high: the least and the greatest integer.
        scale: [groups, columns].
        zero: [groups, columns], of the integers.
        is_float: whether not integers are scaled but numbers of float8, between the same limits.
    """

    group: int
    low: int
    high: int
    scale: Matrix
    zero: Matrix
    is_float: bool = False

    def round(self, rows: Matrix, row: int | slice) -> Matrix:
        """Integers of some rows, less their zero points."""
        scale, zero = self.at(row)
        if self.is_float:
            return to_float8(rows / scale).astype(np.float64)
        return np.clip(np.rint(rows / scale) + zero, self.low, self.high) - zero

    def at(self, row: int | slice) -> tuple[Matrix, Matrix]:
        """Scales and zero points of some rows."""
        if isinstance(row, int):
            return self.scale[row // self.group], self.zero[row // self.group]
        return (
            np.repeat(self.scale, self.group, axis=0)[row],
            np.repeat(self.zero, self.group, axis=0)[row],
        )


def float_grid(weight: Matrix, group: int) -> Grid:
    """The grid of float8 whose largest number is the largest of each group.

    No other scale is worth a search: a float errs by a share of itself, whatever it is scaled by.
    """
    parts = np.ascontiguousarray(weight.reshape(-1, group, weight.shape[1]).transpose(0, 2, 1))
    _, scale = round_groups(parts.reshape(-1, group).astype(np.float32), "float8")
    scales = scale.reshape(parts.shape[:2]).astype(np.float64)
    limit = int(LARGEST_FLOAT8)
    return Grid(group, -limit, limit, scales, np.zeros_like(scales), is_float=True)


def search_grid(weight: Matrix, energy: Matrix, group: int, bits: int, symmetric: bool) -> Grid:
    """The grid on which rounding to nearest loses least.

    Args:
        weight: [rows, columns]; rows are summed over.
        energy: [rows] mean squares of what they are multiplied by.
        group: rows that share a scale.
        bits: of an integer.
        symmetric: zero points are 0, of integers that may be negative.
    """
    parts = weight.reshape(-1, group, weight.shape[1])
    weights = energy.reshape(-1, group, 1)
    high = (1 << bits - symmetric) - 1
    # Of many integers, one is given up for the sake of kernels that change signs.
    low = 0 if not symmetric else -high if bits == 8 else -high - 1
    best: tuple[Matrix, Matrix, Matrix] | None = None
    for share in [1.0, *_SHARES]:
        scale, zero = _ranges(parts, share, low, high)
        rounded = np.clip(np.rint(parts / scale) + zero, low, high) - zero
        loss = (weights * (rounded * scale - parts) ** 2).sum(1)
        if best is None:
            best = loss, scale[:, 0], zero[:, 0]
        else:
            better = loss < best[0]
            best = (
                np.where(better, loss, best[0]),
                np.where(better, scale[:, 0], best[1]),
                np.where(better, zero[:, 0], best[2]),
            )
    assert best is not None
    # Scales are stored as float32.
    return Grid(group, low, high, best[1].astype(np.float32).astype(np.float64), best[2])


def _ranges(parts: Matrix, share: float, low: int, high: int) -> tuple[Matrix, Matrix]:
    if low:
        # The element that is largest in magnitude becomes the integer that is.
        where = np.abs(parts).argmax(axis=1, keepdims=True)
        scale = np.take_along_axis(parts, where, axis=1) * share / low
        return np.where(scale == 0, 1.0, scale), np.zeros_like(scale)
    least = np.minimum(parts.min(axis=1, keepdims=True), 0) * share
    most = np.maximum(parts.max(axis=1, keepdims=True), 0) * share
    scale = (most - least) / high
    scale = np.where(scale == 0, 1.0, scale)
    return scale, np.rint(-least / scale)


def _factor(gram: Matrix, order: np.ndarray) -> tuple[Matrix, Matrix]:
    """The damped matrix, and a factor of its inverse, whose rows are in the order given.

    Data that hardly vary leave nothing about their mean but rounding errors, which may be negative:
    damping grows until it outweighs them. Without any factor, all rows are alike.
    """
    damping = _DAMPING * float(np.abs(np.diag(gram)).mean()) + 1e-12
    for _ in range(_ATTEMPTS):
        damped = gram + damping * np.eye(len(gram))
        try:
            inverse = np.linalg.inv(damped[np.ix_(order, order)])
            # Row i is the inverse of what is left when rows above i are done.
            return damped, np.linalg.cholesky(inverse).T
        except np.linalg.LinAlgError:
            damping *= 10
    return np.eye(len(gram)), np.eye(len(gram))


def round_compensated(weight: Matrix, gram: Matrix, grid: Grid) -> Matrix:
    """Integers, less their zero points, such that the product with the data changes least.

    Args:
        weight: [rows, columns].
        gram: [rows, rows] of the data, up to a factor.
        grid: what values are possible.
    """
    rows = len(weight)
    order = np.argsort(-np.diag(gram), kind="stable")
    damped, factor = _factor(gram, order)
    left = weight[order].copy()
    integers = np.zeros_like(weight)
    for start in range(0, rows, _BLOCK):
        end = min(start + _BLOCK, rows)
        errors = np.zeros((end - start, weight.shape[1]))
        for i in range(start, end):
            row = int(order[i])
            integers[row] = grid.round(left[i], row)
            errors[i - start] = (left[i] - integers[row] * grid.at(row)[0]) / factor[i, i]
            left[i + 1 : end] -= np.outer(factor[i, i + 1 : end], errors[i - start])
        # What comes later is told of a block at once.
        left[end:] -= factor[start:end, end:].T @ errors
    return _settled(integers, weight, damped, grid, order)


def _settled(
    integers: Matrix, weight: Matrix, gram: Matrix, grid: Grid, order: npt.NDArray[np.int64]
) -> Matrix:
    """Improve integers one row at a time."""
    scales, _ = grid.at(slice(None))
    slope = gram @ (integers * scales - weight)
    for _ in range(_SWEEPS):
        for start in range(0, len(order), _BLOCK):
            block = order[start : start + _BLOCK]
            inner, near = slope[block], gram[np.ix_(block, block)]
            changes = np.zeros_like(inner)
            for i, row in enumerate(block.tolist()):
                scale, _ = grid.at(row)
                wanted = integers[row] * scale - inner[i] / near[i, i]
                new = grid.round(wanted, row)
                changes[i] = (new - integers[row]) * scale
                if changes[i].any():
                    inner += np.outer(near[:, i], changes[i])
                    integers[row] = new
            slope += gram[block].T @ changes
    return integers
