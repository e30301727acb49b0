"""Which indices of which axes live and die together: channels, as a union-find structure.

An axis of a tensor is an array of channel numbers, one per index, or None where nothing can be
removed. An operator that pairs the indices of two axes unites their channels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

# Channel numbers along one axis; None where every index must stay.
Axis = npt.NDArray[np.int64] | None
Axes = tuple[Axis, ...]


class Channels:
    """Numbers that stand for channels; united ones are the same channel."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._fixed: list[bool] = []

    def new(self, count: int) -> npt.NDArray[np.int64]:
        """Channels that nothing is known of yet."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        self._fixed.extend([False] * count)
        return np.arange(first, first + count)

    def find(self, channel: int) -> int:
        """The number that stands for all channels united with this one."""
        root = channel
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[channel] != root:
            self._parent[channel], channel = root, self._parent[channel]
        return root

    def unite(self, a: Axis, b: Axis) -> Axis:
        """Pair the indices of two axes of one length; returns either."""
        if a is None or b is None:
            self.fix(a)
            self.fix(b)
            return None
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            root, other = self.find(i), self.find(j)
            if root != other:
                self._parent[other] = root
                self._fixed[root] = self._fixed[root] or self._fixed[other]
        return a

    def fix(self, axis: Axis) -> None:
        """Channels that must stay."""
        if axis is not None:
            for channel in set(axis.tolist()):
                self._fixed[self.find(channel)] = True

    def fix_all(self, axes: Iterable[Axis]) -> None:
        """Channels of all axes must stay."""
        for axis in axes:
            self.fix(axis)

    def is_fixed(self, channel: int) -> bool:
        """Whether a channel must stay."""
        return self._fixed[self.find(channel)]

    def is_free(self, axis: Axis) -> bool:
        """Whether an axis has a channel that may go."""
        return axis is not None and any(not self.is_fixed(c) for c in set(axis.tolist()))

    def roots(self, axis: Axis) -> Axis:
        """An axis in terms of representatives; None if all of it must stay."""
        if axis is None or not self.is_free(axis):
            return None
        return np.array([self.find(c) for c in axis.tolist()], np.int64)
