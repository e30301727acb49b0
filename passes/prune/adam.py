"""Adam (Kingma & Ba, ICLR 2015) with steps in proportion to what they change, and a schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

_MEAN, _SQUARE, _EPSILON = 0.9, 0.99, 1e-12
# Weights that are all tiny still move.
_LEAST = 1e-3


class Adam:
    """Weights on their way. Zeros stay where a mask says so.

    A step is relative to the root mean square of the tensor: batch norms are part of the weights,
    whose sizes differ by orders of magnitude between layers.

    Attributes:
        weights: as they are now.
        steps: how many were made.
    """

    def __init__(self, weights: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> None:
        self.weights = [np.array(w, np.float32) for w in weights]
        self.steps = 0
        self._masks = list(masks)
        self._mean = [np.zeros_like(w) for w in self.weights]
        self._square = [np.zeros_like(w) for w in self.weights]

    def step(self, gradients: Sequence[np.ndarray], rate: float) -> None:
        """Move all weights."""
        self.steps += 1
        for i, gradient in enumerate(gradients):
            weight, mean, square = self.weights[i], self._mean[i], self._square[i]
            mean += (1 - _MEAN) * (gradient - mean)
            square += (1 - _SQUARE) * (np.square(gradient) - square)
            unbiased = np.sqrt(square / (1 - _SQUARE**self.steps)) + _EPSILON
            size = max(float(np.sqrt(np.mean(np.square(weight)))), _LEAST)
            move = rate * size / (1 - _MEAN**self.steps) * mean / unbiased
            mask = self._masks[i]
            self.weights[i] = weight - (move if mask is None else move * mask)

    def state(self) -> dict[str, np.ndarray]:
        """All that is needed to go on later."""
        arrays = {"steps": np.array(self.steps)}
        for name, values in self._columns():
            arrays |= {f"{name}{i}": value for i, value in enumerate(values)}
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        self.steps = int(arrays["steps"])
        for name, values in self._columns():
            values[:] = [np.array(arrays[f"{name}{i}"]) for i in range(len(values))]

    def _columns(self) -> list[tuple[str, list[np.ndarray]]]:
        return [("weight", self.weights), ("mean", self._mean), ("square", self._square)]


def scheduled(rate: float, step: int, steps: int) -> float:
    """A short warm-up, then half a cosine down to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return rate * (step + 1) / warm
    return rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
