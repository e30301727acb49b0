"""What we change in TVM 0.27 itself, and why; the compiler applies it before anything runs.

- `tvm.relax.utils.gen_call_tir_inputs` collects a loop nest's free symbols in a `set`, whose order
  depends on where objects lie in memory. They become parameters of the loop nest, so that equal
  models would give unequal code. A set that keeps the order of insertion takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import tvm.relax.utils


class _InsertionOrderedSet:
    """As much of a set as `gen_call_tir_inputs` uses."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def add(self, item: Any) -> None:
        self._items[item] = None

    def update(self, items: Iterable[Any]) -> None:
        self._items.update(dict.fromkeys(items))

    def __sub__(self, other: _InsertionOrderedSet) -> _InsertionOrderedSet:
        return _InsertionOrderedSet(i for i in self._items if i not in other._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def apply() -> None:
    """Make the changes; a second call makes none."""
    # The module's own name `set` hides the builtin one from the functions in it.
    tvm.relax.utils.set = _InsertionOrderedSet
