"""Affine quantization: real = scale * (integer - zero_point). Pure arithmetic on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class QuantParams:
    """How one tensor maps to integers.

    Attributes:
        scale: float32; a scalar, or one per channel along `axis`.
        zero_point: of the integer dtype, shaped like `scale`.
        axis: the channel axis; None where one scale serves the whole tensor.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The integer dtype."""
        return self.zero_point.dtype

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Round to nearest, halves to even as ONNX's QuantizeLinear does, and saturate."""
        scale, zero = self._broadcast(values.ndim)
        info = np.iinfo(self.zero_point.dtype)
        rounded = np.rint(values / scale) + zero
        integers: np.ndarray = np.clip(rounded, info.min, info.max).astype(self.dtype)
        return integers

    def dequantize(self, values: np.ndarray) -> np.ndarray:
        """The float32 numbers that integers stand for."""
        scale, zero = self._broadcast(values.ndim)
        real: np.ndarray = (values.astype(np.float32) - zero) * scale
        return real

    def _broadcast(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        zero = self.zero_point.astype(np.float32)
        if self.axis is None:
            return self.scale, zero
        shape = [1] * ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape), zero.reshape(shape)


def activation_params(low: float, high: float, symmetric: bool) -> QuantParams:
    """uint8 parameters for numbers in [low, high].

    The range is widened to hold zero, so that padding is exact. Symmetric means a zero point of
    0 for numbers that are never negative, and of 128 for others.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric and low < 0:
        scale, zero = max(-low, high) / 127, 128
    else:
        scale = (high - low) / 255
        zero = 0 if scale == 0 else round(-low / scale)
    return QuantParams(np.array(scale or 1.0, np.float32), np.array(zero, np.uint8))


def weight_params(weight: np.ndarray, axis: int | None) -> QuantParams:
    """int8 parameters, symmetric in [-127, 127], that lose no weight to saturation."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others if axis is not None else None)
    scale = np.asarray(largest / 127, np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    return QuantParams(scale, np.zeros(scale.shape, np.int8), axis)


def shortened(scale: np.ndarray) -> np.ndarray:
    """The nearest numbers of eight significant bits: kernels store those in two bytes each.

    Integers are rounded to these scales afterwards, so that nothing is lost but 0.2 % of range.
    """
    bits = np.ascontiguousarray(scale, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)
