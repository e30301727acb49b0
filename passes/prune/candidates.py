"""Which groups of channels may go, and how their channels are judged."""

from __future__ import annotations

import re
from collections.abc import Callable

from tvm import IRModule

from relaxc.errors import OptionError, near_matches
from relaxc.passes.prune.dependency import Dependencies, Group
from relaxc.passes.prune.fisher import fisher_importance
from relaxc.passes.prune.importance import (
    Importance,
    Scores,
    gram_matrices,
    needs_samples,
    readers,
    sample_importance,
    weight_importance,
)
from relaxc.passes.prune.segments import Arrays, Run


def candidates(found: Dependencies, exclude: tuple[str, ...]) -> tuple[Group, ...]:
    """Groups that excluded nodes have no part in.

    Raises:
        OptionError: there is none, or what is excluded matches no node.
    """
    nodes = {node for group in found.groups for node in group.nodes}
    for pattern in exclude:
        if not any(re.fullmatch(pattern, node) or pattern == node for node in nodes):
            raise OptionError(
                f"`{pattern}` is to be excluded from pruning, but no node with channels that "
                "could be removed has such a name" + near_matches(pattern, nodes)
            )
    groups = tuple(
        g
        for g in found.groups
        if len(g.channels) > 1
        and not any(re.fullmatch(p, n) or p == n for p in exclude for n in g.nodes)
    )
    if not groups:
        raise OptionError(
            "no channels can be removed: the model has no layers between which all channels "
            "are free, or all are excluded"
        )
    return groups


def judge(
    mod: IRModule,
    found: Dependencies,
    importance: Importance,
    run: Run | None,
    samples: Callable[[], list[Arrays]],
    progress: Callable[[str], None],
) -> Scores:
    """The score of every channel; `run` may be None where no samples are needed."""
    if not needs_samples(importance):
        return weight_importance(mod, found, 1 if importance == "l1" else 2)
    assert run is not None
    progress("measure")
    if importance == "fisher":
        return fisher_importance(mod, found, run, samples())
    grams = gram_matrices(mod, readers(mod, found), run, samples())
    progress("judge")
    return sample_importance(mod, found, importance, grams)
