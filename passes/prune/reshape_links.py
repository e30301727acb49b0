"""How the axes of a tensor meet those of the same tensor in another shape.

A reshape falls into blocks of neighbouring axes with one product: `(n, h * d) -> (n, h, d)` is
`(n) -> (n)` and `(h * d) -> (h, d)`. In a block of several axes only one can lose indices, since
what is left must be a box again: heads or what a head holds, not both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.sym import Analyzer

from relaxc.passes.prune.channels import Axes, Axis, Channels

Block = tuple[list[int], list[int]]


def blocks(before: Sequence[Any], after: Sequence[Any]) -> list[Block] | None:
    """Pairs of axis lists with equal products, in order; None where that cannot be told.

    Axes of length one belong to none: beside a symbol they could not be told apart from it.
    """
    analyzer = Analyzer()
    result: list[Block] = []
    sources = [a for a, dim in enumerate(before) if _static(dim) != 1]
    targets = [a for a, dim in enumerate(after) if _static(dim) != 1]
    while sources and targets:
        taken: Block = ([sources.pop(0)], [targets.pop(0)])
        left, right = before[taken[0][0]], after[taken[1][0]]
        while not analyzer.can_prove_equal(left, right):
            if analyzer.can_prove(_expr(left) < right) and sources:
                taken[0].append(sources.pop(0))
                left = left * before[taken[0][-1]]
            elif analyzer.can_prove(_expr(right) < left) and targets:
                taken[1].append(targets.pop(0))
                right = right * after[taken[1][-1]]
            else:
                return None
        result.append(taken)
    return None if sources or targets else result


def _expr(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def link(
    channels: Channels,
    before: Sequence[Any],
    axes: Axes,
    after: Sequence[Any],
    prefer: Sequence[bool],
) -> Axes:
    """The axes of a reshaped tensor.

    Args:
        channels: gets the pairs.
        before: the shape of the tensor.
        axes: its channels.
        after: the shape that it gets.
        prefer: which axes of the new shape may lose indices, for all that is known: of several
            that an axis is split into, the first of these does.
    """
    split = blocks(before, after)
    if split is None:
        channels.fix_all(axes)
        return (None,) * len(after)
    result: list[Axis] = [None] * len(after)
    channels.fix_all(axis for axis, dim in zip(axes, before) if _static(dim) == 1)
    for ins, outs in split:
        sizes = [_static(before[a]) for a in ins], [_static(after[a]) for a in outs]
        if len(ins) == len(outs) == 1:
            result[outs[0]] = axes[ins[0]]
        elif None in sizes[0] or None in sizes[1]:
            channels.fix_all(axes[a] for a in ins)
        elif len(outs) == 1:
            result[outs[0]] = _merge(channels, [axes[a] for a in ins], _ints(sizes[0]))
        elif len(ins) == 1:
            chosen = next((k for k, a in enumerate(outs) if prefer[a]), None)
            if chosen is None:
                channels.fix(axes[ins[0]])
            else:
                result[outs[chosen]] = _split(channels, axes[ins[0]], _ints(sizes[1]), chosen)
        else:
            channels.fix_all(axes[a] for a in ins)
    return tuple(result)


def _merge(channels: Channels, axes: list[Axis], sizes: list[int]) -> Axis:
    chosen = next((k for k, axis in enumerate(axes) if channels.is_free(axis)), None)
    channels.fix_all(axis for k, axis in enumerate(axes) if k != chosen)
    if chosen is None:
        return None
    axis = axes[chosen]
    assert axis is not None
    return np.asarray(axis[np.indices(sizes)[chosen].reshape(-1)])


def _split(channels: Channels, axis: Axis, sizes: list[int], chosen: int) -> Axis:
    if axis is None:
        return None
    apart = np.moveaxis(axis.reshape(sizes), chosen, 0).reshape(sizes[chosen], -1)
    for column in range(1, apart.shape[1]):
        channels.unite(apart[:, 0], apart[:, column])
    return np.asarray(apart[:, 0])


def _static(dim: Any) -> int | None:
    if isinstance(dim, tirx.IntImm | int):
        return int(dim)
    return None


def _ints(sizes: list[int | None]) -> list[int]:
    return [s for s in sizes if s is not None]
