"""A histogram of a tensor over many samples, in memory that does not grow with their number."""

from __future__ import annotations

import numpy as np

_BINS = 2048


class Histogram:
    """Counts of values in equal bins; the range doubles when a value falls outside.

    Attributes:
        low: lower edge of the first bin.
        high: upper edge of the last bin.
        counts: int64, one per bin.
        minimum: the smallest value seen.
        maximum: the largest value seen.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.counts = np.zeros(_BINS, np.int64)
        self.minimum, self.maximum = np.inf, -np.inf

    @property
    def is_empty(self) -> bool:
        """Whether no value was seen."""
        return self.maximum < self.minimum

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin."""
        width = (self.high - self.low) / _BINS
        return self.low + width * (np.arange(_BINS) + 0.5)

    def quantile(self, share: float) -> float:
        """The value that a share of all is less than, to the width of a bin."""
        width = (self.high - self.low) / _BINS
        counted = np.cumsum(self.counts)
        place = int(np.searchsorted(counted, share * counted[-1]))
        value = self.low + width * (min(place, _BINS - 1) + 0.5)
        if share in (0, 1):
            value = self.maximum if share else self.minimum
        return float(min(max(value, self.minimum), self.maximum))

    def add(self, values: np.ndarray) -> None:
        """Count the elements of an array.

        Raises:
            ValueError: there are NaNs or infinities among them.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low + high):
            raise ValueError("values that are not finite")
        if self.is_empty:
            # A little room, so that a constant has a range and the maximum a bin.
            room = max(high - low, abs(high), abs(low), 1e-6) * 1e-6
            self.low, self.high = low - room, high + room
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        while high >= self.high:
            self._halve(self.counts[: _BINS // 2])
            self.high += self.high - self.low
        while low < self.low:
            self._halve(self.counts[_BINS // 2 :])
            self.low -= self.high - self.low
        scale = _BINS / (self.high - self.low)
        bins = ((values.ravel() - self.low) * scale).astype(np.int32)
        self.counts += np.bincount(bins.clip(0, _BINS - 1), minlength=_BINS)

    def _halve(self, target: np.ndarray) -> None:
        """Join neighbouring bins into one half; the other half is new and empty."""
        joined = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts[:] = 0
        target[:] = joined
