"""More inputs out of few: what the teacher makes of them is asked, so no label can be wrong.

| word | what happens to a batch |
|---|---|
| `flip` | images (four axes) are mirrored, each with a chance of one half |
| `shift` | images move by up to an eighth in each direction, zeros come in |
| `mix` | each sample is mixed with another, in a random proportion (mixup, ICLR 2018) |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Augmentation = Literal["flip", "shift", "mix"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)


def augmented(
    arrays: Sequence[np.ndarray], words: Sequence[Augmentation], rng: np.random.Generator
) -> list[np.ndarray]:
    """A changed copy of one batch; only float32 inputs change."""
    count = len(arrays[0]) if arrays and arrays[0].ndim else 1
    other = rng.permutation(count)
    proportion = rng.beta(1.0, 1.0, count).astype(np.float32)
    mixes = rng.random(count) < 0.5
    result = []
    for array in arrays:
        if array.dtype != np.float32 or array.ndim == 0:
            result.append(array)
            continue
        if array.ndim == 4 and "flip" in words:
            chosen = rng.random(len(array)) < 0.5
            array = np.where(chosen[:, None, None, None], array[..., ::-1], array)
        if array.ndim == 4 and "shift" in words:
            array = _shifted(array, rng)
        if "mix" in words and len(array) == count:
            shape = (count, *[1] * (array.ndim - 1))
            share = np.where(mixes, proportion, 1).astype(np.float32).reshape(shape)
            array = share * array + (1 - share) * array[other]
        result.append(np.ascontiguousarray(array, np.float32))
    return result


def _shifted(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = array.shape[2:]
    most = height // 8, width // 8
    padded = np.pad(array, ((0, 0), (0, 0), (most[0],) * 2, (most[1],) * 2))
    tops = rng.integers(0, 2 * most[0] + 1, len(array))
    lefts = rng.integers(0, 2 * most[1] + 1, len(array))
    return np.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts)
        ]
    )
