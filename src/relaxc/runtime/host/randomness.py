"""Random numbers: equal seeds give equal numbers in equal runs after loading; they are ours."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np

from relaxc.artifact import numpy_dtype
from relaxc.runtime.host.base import Attributes, Function, Inputs


def _generator(attrs: Attributes) -> np.random.Generator:
    """A generator of its own for every call: of the seed and of how many there were before."""
    if "seed" not in attrs:
        return np.random.default_rng()
    calls: itertools.count[int] = attrs["calls"]
    (bits,) = struct.unpack("<Q", struct.pack("<d", float(attrs["seed"])))
    return np.random.default_rng([bits, next(calls)])


def _dtype(inputs: Inputs, attrs: Attributes) -> np.dtype[Any]:
    if "dtype" in attrs:
        return numpy_dtype(attrs["dtype"])
    return inputs[0].dtype if inputs and inputs[0].dtype.kind == "f" else np.dtype(np.float32)


def _shape(inputs: Inputs, attrs: Attributes) -> tuple[int, ...]:
    return tuple(attrs["shape"]) if "shape" in attrs else inputs[0].shape


def normal(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """RandomNormal and RandomNormalLike."""
    mean, scale = float(attrs.get("mean", 0.0)), float(attrs.get("scale", 1.0))
    drawn = _generator(attrs).normal(mean, scale, _shape(inputs, attrs))
    return [np.asarray(drawn).astype(_dtype(inputs, attrs))]


def uniform(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """RandomUniform and RandomUniformLike: `high` excluded, before it is rounded."""
    low, high = float(attrs.get("low", 0.0)), float(attrs.get("high", 1.0))
    drawn = _generator(attrs).uniform(low, high, _shape(inputs, attrs))
    return [np.asarray(drawn).astype(_dtype(inputs, attrs))]


def multinomial(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """Multinomial: classes drawn by unnormalized logarithms of their probabilities."""
    (logits,) = inputs
    count = int(attrs.get("sample_size", 1))
    # The largest of logits plus Gumbel noise is distributed as asked for.
    noise = _generator(attrs).gumbel(size=(logits.shape[0], count, logits.shape[1]))
    drawn = np.argmax(logits.astype(np.float64)[:, None, :] + noise, axis=-1)
    return [drawn.astype(attrs.get("dtype", "int32"))]


FUNCTIONS: dict[str, Function] = {
    "RandomNormal": normal,
    "RandomNormalLike": normal,
    "RandomUniform": uniform,
    "RandomUniformLike": uniform,
    "Multinomial": multinomial,
}
