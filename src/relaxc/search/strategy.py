"""Which candidates to try, and in which order: cheap and likely ones first.

A strategy is a generator: it yields a recipe and is sent the trial that came of it. It looks at
nothing else, so a search that is played back from its journal takes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from relaxc.layout import Precision
from relaxc.options import CALIBRATION_METHODS, QuantizeOptions
from relaxc.search.journal import Trial
from relaxc.search.recipe import Recipe

Strategy = Generator[Recipe, Trial, None]
# Every further step leaves so many times more layers in float.
_GROWTH = 2


@dataclass(frozen=True, kw_only=True)
class Space:
    """What the target offers.

    Attributes:
        precisions: besides float32.
        has_integers: whether it computes on integers.
        drop: how much worse a trial is than the float build; infinite where it failed.
        allowed: the drop that is allowed; known once the float build is.
        sensitive_nodes: ONNX nodes in the order in which they suffer from the quantization of a
            recipe, the worst first.
    """

    precisions: Sequence[Precision]
    has_integers: bool
    drop: Callable[[Trial], float]
    allowed: Callable[[], float]
    sensitive_nodes: Callable[[Recipe], Sequence[str]]

    def keeps_accuracy(self, trial: Trial) -> bool:
        """Whether a trial loses no more than is allowed."""
        return self.drop(trial) <= self.allowed()


def default_strategy(space: Space) -> Strategy:
    """Float32, other precisions, int8 with each calibration, then int8 with layers left float."""
    yield Recipe()
    for precision in space.precisions:
        yield Recipe(precision=precision)
    if space.has_integers:
        yield from _integers(space)


def _integers(space: Space) -> Strategy:
    tried: list[Trial] = []
    for calibration in CALIBRATION_METHODS:
        trial = yield Recipe(quantize=QuantizeOptions(calibration=calibration))
        if trial.is_ok:
            tried.append(trial)
    if not tried:
        return
    best = min(tried, key=space.drop)
    if not space.keeps_accuracy(best):
        yield from _leave_float(best, space)


def _leave_float(start: Trial, space: Space) -> Strategy:
    """Leave the worst layers in float: more and more of them, then as few as will do."""
    nodes = list(space.sensitive_nodes(start.recipe))
    too_few, enough, count = 0, None, 1
    while enough is None and count < len(nodes):
        trial = yield _excluding(start.recipe, nodes[:count])
        if space.keeps_accuracy(trial):
            enough = count
        else:
            too_few, count = count, count * _GROWTH
    while enough is not None and enough - too_few > 1:
        middle = (enough + too_few) // 2
        trial = yield _excluding(start.recipe, nodes[:middle])
        if space.keeps_accuracy(trial):
            enough = middle
        else:
            too_few = middle


def _excluding(recipe: Recipe, nodes: Sequence[str]) -> Recipe:
    assert recipe.quantize is not None
    return replace(recipe, quantize=replace(recipe.quantize, exclude=tuple(nodes)))
