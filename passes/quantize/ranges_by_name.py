"""Histograms that serve again where a module is annotated anew, with other observers."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import IRModule

from relaxc.passes.quantize.calibrate import Collect
from relaxc.passes.quantize.histogram import Histogram
from relaxc.passes.quantize.instrument import observed


class RangesByName:
    """Collects histograms, and knows them by the names of the values that they are of."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._known: dict[str, Histogram] = {}

    def __call__(self, instrumented: IRModule) -> Mapping[int, Histogram]:
        """Run an instrumented module."""
        found = self._collect(instrumented)
        self._known = {
            name: found[number] for name, number in observed(instrumented) if number in found
        }
        return found

    def again(self, instrumented: IRModule) -> Mapping[int, Histogram]:
        """What was found, for the same values or some of them; nothing of values that are new.

        Values that shared a range with others may do so no more: theirs stays the common one.
        """
        numbers = observed(instrumented)
        return {number: self._known[name] for name, number in numbers if name in self._known}

    def of(self, name: str) -> Histogram | None:
        """What was found of one value."""
        return self._known.get(name)
