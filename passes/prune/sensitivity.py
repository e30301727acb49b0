"""How much a model's result changes when a group of channels gets narrower: one group at a time.

The module is compiled once, with masks (masking.py), and run with each group at each ratio. The
channels that matter least go first, as importance says.

| measure | |
|---|---|
| divergence | squared error of the outputs relative to their squares, against the dense model |
| a function | how much lower its number is than the dense model's |

Curves then say which group should give: `scores_by_curves` turns them into scores of channels.
Leaves alone: the module; it is returned as it came.
Must run after: canonicalization; batch norms are part of the weights by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import IRModule

from relaxc.errors import OptionError
from relaxc.passes.base import Pass
from relaxc.passes.prune.candidates import candidates, judge
from relaxc.passes.prune.dependency import Group, dependencies
from relaxc.passes.prune.importance import Importance, Scores
from relaxc.passes.prune.masking import Masked, mask_channels
from relaxc.passes.prune.segments import Arrays, Run

# Group -> (ratio, how much worse), by ratio.
Curves = Mapping[str, Sequence[tuple[float, float]]]
# From a masked module and the masks of each trial to a number each; the first trial is dense.
Evaluate = Callable[[Masked, Iterable[list[np.ndarray]]], Iterator[float]]

RATIOS = (0.125, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        group: its name.
        channels: how many it has.
        ratio: the share of them that was to go.
        removed: how many went.
        value: divergence, or by how much the user's number dropped.
    """

    group: str
    channels: int
    ratio: float
    removed: int
    value: float


@dataclass(frozen=True)
class AnalyzeSensitivity(Pass):
    """Measure every group at every ratio.

    Attributes:
        run: compiles a module and runs it.
        samples: gives arguments of `main`.
        record: told every point as it is measured.
        importance: which channels of a group go first.
        ratios: shares of a group's channels, between 0 and 1.
        exclude: nodes whose channels stay: names, or regular expressions that match whole names.
        known: (group, ratio) of points that need not be measured again.
        evaluate: measures the user's number; None: divergence.
        progress: told how far the work is.
    """

    run: Run
    samples: Callable[[], list[Arrays]]
    record: Callable[[Point], None]
    importance: Importance = "l2"
    ratios: tuple[float, ...] = RATIOS
    exclude: tuple[str, ...] = ()
    known: frozenset[tuple[str, float]] = frozenset()
    evaluate: Evaluate | None = None
    progress: Callable[[str], None] = lambda _text: None

    name: ClassVar[str] = "analyze-sensitivity"
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Measure `main`, and return it as it is.

        Raises:
            OptionError: there is nothing to remove, or what is excluded matches no node.
        """
        found = dependencies(mod)
        groups = candidates(found, self.exclude)
        trials = [
            (group, ratio)
            for group in groups
            for ratio in self.ratios
            if (group.name, ratio) not in self.known
        ]
        if not trials:
            return mod
        scores = judge(mod, found, self.importance, self.run, self.samples, self.progress)
        gone = [_least(group, ratio, scores) for group, ratio in trials]
        masked = mask_channels(mod, found)
        values = (self.evaluate or self._divergence)(
            masked, (masked.masks(removed) for removed in [[], *gone])
        )
        self.progress("sensitivity 0 %")
        dense = next(values)
        for number, ((group, ratio), removed) in enumerate(zip(trials, gone), 1):
            value = next(values)
            if self.evaluate is not None:
                value = dense - value
            self.record(Point(group.name, len(group.channels), ratio, len(removed), value))
            self.progress(f"sensitivity {100 * number // len(trials)} %")
        return mod

    def _divergence(self, masked: Masked, trials: Iterable[list[np.ndarray]]) -> Iterator[float]:
        samples = self.samples()
        feeds = ([*sample, *masks] for masks in trials for sample in samples)
        results = self.run(masked.mod, feeds)
        dense: list[list[np.ndarray]] = []
        while True:
            error: list[float] = []
            norm: list[float] = []
            for number in range(len(samples)):
                outputs = next(results, None)
                if outputs is None:
                    return
                if len(dense) < len(samples):
                    dense.append(outputs)
                pairs = list(zip(outputs, dense[number], strict=True))
                error.append(sum(_squares(np.asarray(a, np.float64) - b) for a, b in pairs))
                norm.append(sum(_squares(b) for _, b in pairs))
            yield sum(error) / max(sum(norm), 1e-30)


def _squares(array: np.ndarray) -> float:
    return float(np.sum(np.square(array, dtype=np.float64)))


def _least(group: Group, ratio: float, scores: Scores) -> list[int]:
    """The channels that go first: at least one, never all."""
    ranked = sorted(group.channels, key=scores.__getitem__)
    return ranked[: min(max(1, round(ratio * len(ranked))), len(ranked) - 1)]


def scores_by_curves(groups: Iterable[Group], scores: Scores, curves: Curves) -> Scores:
    """How much worse the model gets with each channel that goes, in the order that scores give.

    Curves are taken to their convex hulls: a channel never counts less than those before it.

    Raises:
        OptionError: there is no curve of a group.
    """
    result: Scores = {}
    for group in groups:
        if group.name not in curves:
            raise OptionError(
                f"the sensitivity data says nothing of the channels of `{group.name}`; analyze "
                "this model again"
            )
        ranked = sorted(group.channels, key=scores.__getitem__)
        steps = np.diff(_convex(curves[group.name], np.arange(len(ranked) + 1) / len(ranked)))
        for rank, (channel, step) in enumerate(zip(ranked, steps.tolist())):
            # Along a straight piece all steps are alike: the order stays.
            result[channel] = step * (1 + 1e-6 * rank) + 1e-15 * rank
    return result


def _convex(curve: Sequence[tuple[float, float]], at: np.ndarray) -> np.ndarray:
    """The convex hull of a curve from below, and on along its last piece."""
    hull = [(0.0, 0.0)]
    for ratio, value in sorted(curve):
        point = ratio, max(value, 0.0)
        while len(hull) > 1 and _slope(hull[-1], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    last = _slope(hull[-2], hull[-1]) if len(hull) > 1 else 0.0
    end = 1.0, hull[-1][1] + (1 - hull[-1][0]) * last
    ratios, values = zip(*hull, end)
    return np.asarray(np.interp(at, ratios, values))


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / max(b[0] - a[0], 1e-12)
