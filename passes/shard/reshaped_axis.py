"""Where a divided axis is after a reshape."""

from __future__ import annotations

from collections.abc import Sequence


def reshaped_axis(old: Sequence[int], new: Sequence[int], axis: int) -> int | None:
    """The axis of the new shape along which the same blocks lie; None if they are scattered.

    A reshape in row-major order joins and splits neighbouring axes. Contiguous blocks of an axis
    are contiguous blocks of another, where both are the outermost of what is joined or split.

    Args:
        old, new: shapes of equally many elements.
        axis: of the old shape.
    """
    i, j = len(old), len(new)
    while i > 0 or j > 0:
        # From the right, the smallest groups of axes of equal size.
        last_i, last_j = i, j
        left = right = 1
        first = True
        while first or (left != right and i + j > 0):
            first = False
            if (left <= right and i > 0) or j == 0:
                i -= 1
                left *= old[i]
            else:
                j -= 1
                right *= new[j]
        # Axes of size 1 in front of a group belong to it: whose, makes no difference.
        if i <= axis < last_i:
            outer = [k for k in range(i, last_i) if old[k] != 1]
            if outer[:1] != [axis]:
                return None
            return next((k for k in range(j, last_j) if new[k] != 1), None)
    return None
