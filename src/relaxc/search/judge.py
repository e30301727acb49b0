"""How good and how fast a candidate is, measured on its artifact."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from relaxc.errors import InputError, RelaxcError
from relaxc.measure.bench import BenchOptions
from relaxc.measure.contenders import Contender, onnxruntime_contender, relaxc_contender
from relaxc.measure.race import Lap, race_contenders
from relaxc.runtime.model import Model
from relaxc.runtime.session import load
from relaxc.search.dataset import Dataset, Part
from relaxc.search.metrics import Metric, concatenated, evaluate

# The user's own measure: from a loaded model to a number, more is better.
Evaluate = Callable[[Model], float]
_ROUNDS = 5


class Judge:
    """Compares candidates with the float build of the same model."""

    def __init__(
        self,
        reference: Path,
        dataset: Dataset,
        metric: Metric | None,
        function: Evaluate | None,
        threads: int,
        duration_s: float,
    ) -> None:
        self._reference = reference
        self._dataset = dataset
        self._metric = metric
        self._function = function
        self._threads = threads
        self._duration_s = duration_s
        self._truth: dict[int, np.ndarray] = {}

    @property
    def is_higher_better(self) -> bool:
        """Whether more is better."""
        return self._metric is None or self._metric.is_higher_better

    def score(self, artifact: Path, part: Part) -> float:
        """The metric on a part of the data; the user's own function has data of its own.

        Raises:
            InputError: the samples don't fit the model, or the metric does not fit its outputs.
        """
        model = load(artifact, threads=self._threads)
        if self._function is not None:
            return _number(self._function(model))
        assert self._metric is not None
        return evaluate(self._metric, _predictions(model, part), self._truth_of(part))

    def _truth_of(self, part: Part) -> np.ndarray:
        if id(part) not in self._truth:
            if self._metric is not None and self._metric.needs_labels:
                assert part.labels is not None
                self._truth[id(part)] = np.concatenate(part.labels)
            else:
                model = load(self._reference, threads=self._threads)
                self._truth[id(part)] = _predictions(model, part)
        return self._truth[id(part)]

    def drop(self, score: float, base: float) -> float:
        """How much worse than the float build's score: positive is worse."""
        return base - score if self.is_higher_better else score - base

    def speed(self, artifact: Path) -> tuple[float, float]:
        """Median latency in ms, and its ratio to the float build's, measured in turns."""
        base, candidate = self._race(self._relaxc(self._reference), self._relaxc(artifact))
        latency_ms = float(np.median(candidate.latencies_ms))
        is_base = artifact == self._reference
        return latency_ms, 1.0 if is_base else _ratio(candidate, base)

    def ratio_to_onnxruntime(self, artifact: Path, model: Path) -> float | None:
        """An artifact's time relative to ONNX Runtime's; None where that cannot run the model."""
        peer = functools.partial(onnxruntime_contender, model, self._threads)
        try:
            theirs, ours = self._race(peer, self._relaxc(artifact))
        except RelaxcError:
            return None
        return _ratio(ours, theirs)

    def _relaxc(self, artifact: Path) -> Callable[[], Contender]:
        return functools.partial(relaxc_contender, artifact, self._threads)

    def _race(self, *makers: Callable[[], Contender]) -> tuple[Lap, ...]:
        options = BenchOptions(
            warmup_ms=50, duration_s=self._duration_s, iterations=_ROUNDS, threads=self._threads
        )
        feed = dict(self._dataset.search.feeds[0])
        return race_contenders(makers, feed, options, rounds=_ROUNDS)


def _ratio(ours: Lap, theirs: Lap) -> float:
    """Of the minima, which other work on the machine disturbs least."""
    return float(ours.latencies_ms.min() / theirs.latencies_ms.min())


def _predictions(model: Model, part: Part) -> np.ndarray:
    """The first output of every call."""
    name = model.outputs[0].name
    return concatenated([np.asarray(model.run(feed)[name]) for feed in part.feeds])


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as err:
        raise InputError(
            f"the function to evaluate with returned `{value!r:.60}`; it must return a number, "
            "and more must be better"
        ) from err
