"""Which parts of a network run image by image: those whose maps of a whole batch leave the cache.

A kernel whose maps exceed the last-level cache reads what the one before wrote from memory. With
one image at a time they stay in the cache, but weights are read again for every image. Both are
counted in bytes from memory, fitted to times of kernels on batches of 1 and 8; a run of steps is
taken where the balance is best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Weights come from a cache once the first image has fetched them, and in time for the arithmetic.
_AGAIN = 0.5
# Winograd's method transforms them anew each time.
_AGAIN_TRANSFORMED = 2.0
# What one more call of a kernel costs: a microsecond.
_CALL = 64 << 10
# Images are cut out, and results put together, by a copy.
_COPY = 2
# More parts would only make the code's list of calls longer.
_MOST_PARTS = 16


@dataclass(frozen=True)
class Step:
    """A kernel call, as far as it matters here.

    Attributes:
        maps: bytes that it reads and writes for the whole batch, weights aside.
        weights: bytes of its weights.
        transforms: whether it transforms these in every call.
    """

    maps: int
    weights: int
    transforms: bool = False

    def gain(self, parts: int, cache: int) -> float:
        """Bytes from memory that running it part by part saves."""
        part = self.maps / parts
        missed = min(part, 2 * max(part - cache, 0))
        again = self.weights * (_AGAIN_TRANSFORMED if self.transforms else _AGAIN)
        return max(self.maps - cache, 0) - parts * missed - (parts - 1) * (again + _CALL)


def images_per_part(batch: int, cores: int) -> int:
    """How many images run together; `batch` if that is all of them.

    Two for several cores, so that each has one of its own: cores may be far apart, and wait for
    what another one wrote. More only if there would be too many parts.
    """
    least = 2 if cores > 1 and batch % 2 == 0 else 1
    fitting = (n for n in range(least, batch + 1) if batch % n == 0)
    return next(n for n in fitting if batch // n <= _MOST_PARTS)


def best_runs(
    steps: Sequence[Step | None],
    entering: Sequence[int],
    leaving: Sequence[int],
    parts: int,
    cache: int,
) -> list[tuple[int, int]]:
    """Half-open ranges of steps to run part by part, in order.

    Args:
        steps: in program order; None for what must see the whole batch.
        entering: for every place before, between and after steps, the bytes of maps to be cut up
            if a range begins there.
        leaving: the bytes of maps to be put together if one ends there.
        parts: how many.
        cache: bytes of maps that stay cached from one kernel to the next.
    """
    found: list[tuple[int, int]] = []
    pending = _without_none(steps)
    while pending:
        start, end = pending.pop()
        best = 0.0
        for first in range(start, end):
            total = -float(_COPY * entering[first])
            for last in range(first, end):
                step = steps[last]
                assert step is not None
                total += step.gain(parts, cache)
                if total - _COPY * leaving[last + 1] > best:
                    best = total - _COPY * leaving[last + 1]
                    place = (first, last + 1)
        if best > 0:
            found.append(place)
            pending += [(start, place[0]), (place[1], end)]
    return sorted(found)


def _without_none(steps: Sequence[Step | None]) -> list[tuple[int, int]]:
    """The longest ranges without None."""
    ends = [i for i, step in enumerate(steps) if step is None]
    starts = [0, *(i + 1 for i in ends)]
    return [(a, b) for a, b in zip(starts, [*ends, len(steps)]) if a < b]
