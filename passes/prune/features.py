"""Values in the middle of a model that a student is to have as its teacher has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from tvm import IRModule, relax

from relaxc.passes.prune.reconstruct import Kept
from relaxc.passes.prune.segments import bindings_of

T = TypeVar("T")

# How many are compared, evenly spread.
_FEATURES = 4


def features_of(
    dense: IRModule, small: IRModule, kept: Kept | None
) -> list[tuple[int, tuple[int, np.ndarray] | None]]:
    """Sums of two branches, evenly spread, with the teacher's channels that are left."""
    before, after = bindings_of(dense), bindings_of(small)
    found: list[tuple[int, tuple[int, np.ndarray] | None]] = []
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if not _is_sum(new.value):
            continue
        is_same = list(map(str, old.var.ty.shape.values)) == list(map(str, new.var.ty.shape.values))
        if is_same:
            found.append((index, None))
        elif kept is not None and (mask := kept(old.var)) is not None:
            found.append((index, (1 if old.var.ty.ndim == 4 else old.var.ty.ndim - 1, mask)))
    return _spread(found)


def features_by_name(
    teacher: IRModule, student: IRModule
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sums of two branches that both modules have under the same name, evenly spread."""
    theirs = {str(b.var.name): i for i, b in enumerate(bindings_of(teacher)) if _is_sum(b.value)}
    ours = {str(b.var.name): i for i, b in enumerate(bindings_of(student)) if _is_sum(b.value)}
    picked = _spread([name for name in theirs if name in ours])
    return tuple(theirs[name] for name in picked), tuple(ours[name] for name in picked)


def _is_sum(value: relax.Expr) -> bool:
    if not isinstance(value, relax.Call) or str(getattr(value.op, "name", "")) != "relax.add":
        return False
    return all(isinstance(arg, relax.Var) for arg in value.args)


def _spread(found: Sequence[T]) -> list[T]:
    if len(found) <= _FEATURES:
        return list(found)
    picked = np.linspace(0, len(found) - 1, _FEATURES + 1)[1:].round().astype(int)
    return [found[i] for i in picked]
