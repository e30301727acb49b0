"""How inexact layers may be on integers: each, and all together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from relaxc.passes.quantize.layer_errors import LayerError


@dataclass(frozen=True)
class Limits:
    """Layers that break these stay float.

    Attributes:
        least_sqnr_db: of each layer; None: any will do.
        most_noise: the sum of the layers' noise, each relative to its signal; None: any will do.
            Layers add their noise to what flows through a network, so that the sum is about what
            the output of a plain chain has. The worst are left float until it is kept.
    """

    least_sqnr_db: float | None = None
    most_noise: float | None = None

    def inexact(self, errors: Collection[LayerError]) -> frozenset[str]:
        """The nodes that stay float."""
        found: set[str] = set()
        left = sum(map(_noise, errors))
        for error in sorted(errors, key=lambda error: error.sqnr_db):
            is_low = self.least_sqnr_db is not None and error.sqnr_db < self.least_sqnr_db
            if is_low or (self.most_noise is not None and left > self.most_noise):
                found.add(error.node)
                left -= _noise(error)
        return frozenset(found)


def _noise(error: LayerError) -> float:
    # A layer that is all noise, of a signal of zero, counts as such.
    return float(10.0 ** (-max(error.sqnr_db, 0.0) / 10))
