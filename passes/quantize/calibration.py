"""From a histogram to the range that is quantized: what to clip, and what to round."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from relaxc.passes.quantize.affine import activation_params
from relaxc.passes.quantize.histogram import Histogram

Range = tuple[float, float]

# Share of the values that percentile calibration keeps.
_PERCENTILE = 0.9999
# Fractions of the full range that the searching methods try.
_FRACTIONS = np.linspace(1.0, 0.2, 81)


def minmax(seen: Histogram, _symmetric: bool) -> Range:
    """Everything that was seen; nothing is clipped."""
    return seen.minimum, seen.maximum


def percentile(seen: Histogram, _symmetric: bool) -> Range:
    """The middle 99.99 % of the values."""
    share = np.cumsum(seen.counts) / seen.counts.sum()
    tail = (1 - _PERCENTILE) / 2
    width = (seen.high - seen.low) / seen.counts.size
    first = int(np.searchsorted(share, tail, side="right"))
    last = int(np.searchsorted(share, 1 - tail))
    low, high = seen.low + first * width, seen.low + (last + 1) * width
    return max(low, seen.minimum), min(high, seen.maximum)


def mse(seen: Histogram, symmetric: bool) -> Range:
    """The range of least mean squared error.

    Source: R. Banner et al., "Post training 4-bit quantization of convolutional networks for
    rapid-deployment", NeurIPS 2019, section 3; searched over the histogram instead of a fitted
    density.
    """
    values, counts = seen.centers, seen.counts.astype(np.float64)

    def squared_error(low: float, high: float) -> float:
        params = activation_params(low, high, symmetric)
        error = params.dequantize(params.quantize(values)) - values
        return float((counts * error * error).sum())

    return _best_range(seen, squared_error)


def entropy(seen: Histogram, symmetric: bool) -> Range:
    """The range whose quantized distribution diverges least from the one seen.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017: Kullback-Leibler divergence
    between the clipped histogram and its rounding to the levels that remain.
    """
    return _best_range(seen, lambda low, high: _divergence(seen, low, high, symmetric))


METHODS: Mapping[str, Callable[[Histogram, bool], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}


def _best_range(seen: Histogram, loss: Callable[[float, float], float]) -> Range:
    full = min(seen.minimum, 0.0), max(seen.maximum, 0.0)
    candidates = [(full[0] * f, full[1] * f) for f in _FRACTIONS]
    return min(candidates, key=lambda candidate: loss(*candidate))


def _divergence(seen: Histogram, low: float, high: float, symmetric: bool) -> float:
    """KL(P || Q): P is the histogram with its tails moved to the edges of [low, high]."""
    values = seen.centers
    inside = np.flatnonzero((values >= low) & (values <= high))
    if not inside.size:
        return np.inf
    first, last = int(inside[0]), int(inside[-1]) + 1
    kept = seen.counts[first:last].astype(np.float64)
    clipped = kept.copy()
    clipped[0] += seen.counts[:first].sum()
    clipped[-1] += seen.counts[last:].sum()
    # Each level's count is spread evenly over the bins that it stands for and that are not empty.
    params = activation_params(low, high, symmetric)
    level = params.quantize(values[first:last]).astype(np.int64)
    total = np.bincount(level, kept, minlength=256)
    filled = np.bincount(level, kept > 0, minlength=256)
    spread = np.where(kept > 0, total[level] / np.maximum(filled[level], 1), 0)
    if not kept.sum():
        return np.inf
    p, q = clipped / clipped.sum(), spread / spread.sum()
    mask = p > 0
    return float((p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-12))).sum())
