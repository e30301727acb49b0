"""Which candidates to try, and in which order: cheap and likely ones first.

A strategy is a generator: it yields a recipe and is sent the trial that came of it. It looks at
nothing else, so a search that is played back from its journal takes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from relaxc.layout import Precision
from relaxc.options import (
    CALIBRATION_METHODS,
    PruneOptions,
    QuantizeOptions,
    Scheme,
    SparsifyOptions,
)
from relaxc.search.journal import Trial
from relaxc.search.recipe import Recipe

Strategy = Generator[Recipe, Trial, None]
# Every further step leaves so many times more layers in float.
_GROWTH = 2
# Only the weights of products, for memory: seldom faster than int8 that computes. Not fp8, which is
# as large as int8 and less exact.
_SMALL: tuple[Scheme, ...] = ("int8-weights", "int4-weights")
# Of the multiplications, to be saved by removing channels.
_SHARES = (0.15, 0.3, 0.45, 0.6, 0.75)
# Of the blocks of weights, to be left out by kernels: fewer gain nothing.
_BLOCKS = (0.6, 0.75, 0.85)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What the target offers.

    Attributes:
        precisions: besides float32.
        has_integers: whether it computes on integers.
        has_sparse_kernels: whether float32 kernels leave out blocks of weights that are zero.
        can_tune: whether its kernels have anything to tune.
        is_small: whether the artifact's size is limited.
        drop: how much worse a trial is than the float build; infinite where it failed.
        allowed: the drop that is allowed; known once the float build is.
        best: the recipe of the fastest trial that keeps the accuracy.
        predicted_s: what a recipe is likely to take; infinite where nothing is known.
        sensitive_nodes: ONNX nodes in the order in which they suffer from the quantization of a
            recipe, the worst first.
    """

    precisions: Sequence[Precision]
    has_integers: bool
    has_sparse_kernels: bool
    can_tune: bool
    is_small: bool
    drop: Callable[[Trial], float]
    allowed: Callable[[], float]
    best: Callable[[], Recipe]
    predicted_s: Callable[[Recipe], float]
    sensitive_nodes: Callable[[Recipe], Sequence[str]]

    def keeps_accuracy(self, trial: Trial) -> bool:
        """Whether a trial loses no more than is allowed."""
        return self.drop(trial) <= self.allowed()


def default_strategy(space: Space) -> Strategy:
    """Float32, then precisions and integers in the order in which they promise to be fast, then
    the best of these with fewer channels and, in float32, fewer weights; the best of all tuned.
    """
    yield Recipe()
    ways = [(recipe, _alone(recipe)) for recipe in map(_in_precision, space.precisions)]
    if space.has_integers:
        ways.append((Recipe(quantize=QuantizeOptions()), _integers(space)))
    for _recipe, way in sorted(ways, key=lambda way: space.predicted_s(way[0])):
        yield from way
    if space.has_integers and space.is_small:
        for scheme in _SMALL:
            yield Recipe(quantize=QuantizeOptions(scheme=scheme))
    yield from _fewer_channels(space.best(), space)
    if space.has_sparse_kernels and _is_float32(space.best()):
        yield from _zero_blocks(space.best(), space)
    if space.can_tune:  # last, for as long as there is time
        yield replace(space.best(), tuned=True)


def _in_precision(precision: Precision) -> Recipe:
    return Recipe(precision=precision)


def _alone(recipe: Recipe) -> Strategy:
    yield recipe


def _integers(space: Space) -> Strategy:
    """All layers on integers, with each calibration; if all lose too much, other ways to stay
    accurate.
    """
    tried: list[Trial] = []
    for calibration in CALIBRATION_METHODS:
        # The search judges the model, so that no layer is judged alone.
        everything = QuantizeOptions(calibration=calibration, least_sqnr_db=None)
        trial = yield Recipe(quantize=everything)
        if trial.is_ok:
            tried.append(trial)
    if not tried:
        return
    best = min(tried, key=space.drop)
    if not space.keeps_accuracy(best):
        assert best.recipe.quantize is not None
        # Without the layers that are inexact by themselves.
        yield Recipe(quantize=QuantizeOptions(calibration=best.recipe.quantize.calibration))
        # Ranges that are measured as the model runs fit better, where that is fast: in products.
        yield Recipe(quantize=QuantizeOptions(scheme="int8-dynamic"))
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


def _fewer_channels(start: Recipe, space: Space) -> Strategy:
    """Remove more and more channels, then half of the last step."""
    kept = 0.0
    for share in _SHARES:
        trial = yield _pruning(start, share)
        if not trial.is_ok:  # there is nothing to remove
            return
        if not space.keeps_accuracy(trial):
            yield _pruning(start, round((kept + share) / 2, 3))
            return
        kept = share


def _pruning(recipe: Recipe, share: float) -> Recipe:
    # What loses least: by the change of the next layer's input, which is then corrected.
    options = PruneOptions(
        saving="macs", share=share, importance="obs", scope="global", recover=True
    )
    return replace(recipe, prune=options)


def _is_float32(recipe: Recipe) -> bool:
    return recipe.quantize is None and recipe.precision == "float32"


def _zero_blocks(start: Recipe, space: Space) -> Strategy:
    """Set more and more blocks of weights to zero."""
    for share in _BLOCKS:
        options = SparsifyOptions(share=share, blocks=True, criterion="obs", recover=True)
        trial = yield replace(start, sparsify=options)
        if not trial.is_ok or not space.keeps_accuracy(trial):
            return


def _excluding(recipe: Recipe, nodes: Sequence[str]) -> Recipe:
    assert recipe.quantize is not None
    return replace(recipe, quantize=replace(recipe.quantize, exclude=tuple(nodes)))
