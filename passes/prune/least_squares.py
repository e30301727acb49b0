"""Least squares for all columns of a weight at once, each within its own zeros."""

from __future__ import annotations

import numpy as np

from relaxc.passes.prune.products import Matrix

# Steps of conjugate gradients; more change the last digits only.
_STEPS = 60


def solve_within(gram: Matrix, cross: Matrix, mask: np.ndarray) -> Matrix:
    """What minimizes `x' gram x - 2 x' cross` column by column, with zeros where the mask says so.

    Conjugate gradients, scaled by the diagonal; they start at zero and never do worse.

    Args:
        gram: positive definite.
        cross: one column per column of the result.
        mask: where the result may differ from zero.
    """
    diagonal = np.diag(gram)[:, None] + 1e-30
    result = np.zeros_like(cross)
    residual = mask * cross
    step = residual / diagonal
    norm = (residual * step).sum(0)
    for _ in range(_STEPS):
        curved = mask * (gram @ step)
        length = norm / np.maximum((step * curved).sum(0), 1e-30)
        result += step * length
        residual -= curved * length
        scaled = residual / diagonal
        before, norm = norm, (residual * scaled).sum(0)
        step = scaled + step * (norm / np.maximum(before, 1e-30))
    return result
