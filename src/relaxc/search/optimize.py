"""optimize(): the fastest artifact that keeps a model's accuracy, within a time budget."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from relaxc import cpu
from relaxc.calibrate import CalibrationData
from relaxc.compiler import require_writable
from relaxc.errors import RelaxcError
from relaxc.layout import Precision
from relaxc.manifest import versions
from relaxc.search.building import Builder, can_tune
from relaxc.search.builds import (
    channels_of,
    code_of,
    layers_of,
    pass_seconds,
    require_new,
)
from relaxc.search.dataset import Dataset, feeds_of, split
from relaxc.search.journal import Journal, Trial, open_journal
from relaxc.search.judge import Judge
from relaxc.search.metrics import metric_named
from relaxc.search.options import SearchOptions
from relaxc.search.predictions import Predictions
from relaxc.search.publishing import Publisher
from relaxc.search.recipe import Recipe, Run
from relaxc.search.result import Result
from relaxc.search.standing import Standing
from relaxc.search.strategy import Space, default_strategy
from relaxc.targets.registry import backend_for

# Beside the artifact: what the search has tried.
_FOLDER_SUFFIX = ".search"
# Less time for tuning finds nothing.
_LEAST_TUNING_S = 20.0
_PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float16", "tf32")


@dataclass(frozen=True)
class Watcher:
    """Who is told of a search's progress.

    Attributes:
        started: called with the recipe of every trial that is to be run.
        finished: called with every trial.
    """

    started: Callable[[Recipe, Search], None] = lambda _recipe, _search: None
    finished: Callable[[Trial, Search], None] = lambda _trial, _search: None


def optimize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    data: CalibrationData,
    labels: np.ndarray | None = None,
    options: SearchOptions | None = None,
    watcher: Watcher | None = None,
) -> Result:
    """Search for the fastest artifact that keeps a model's accuracy.

    The best artifact so far lies at `output` from the first build on. A search that is killed goes
    on with `resume`.

    Args:
        model: the ONNX file.
        output: the artifact to write; its recipe and the trials are kept beside it.
        data: dictionaries from input names to arrays, one per call; or a function that gives them
            when told the model's inputs. A part of them calibrates, a part is for comparing
            candidates, a part is held out.
        labels: [n, ...], one per sample, for metrics that need them.
        options: goal, budget and target.
        watcher: told of every trial.

    Raises:
        ModelError: the model cannot be compiled at all.
        OptionError: an option makes no sense, or `resume` finds another search.
        InputError: samples or labels do not fit.
        OutputError: the artifact cannot be written.
    """
    options = options or SearchOptions()
    output, model = Path(output), Path(model)
    require_writable(output, model)
    feeds, sha256 = feeds_of(model, data, options.compile)
    dataset = split(feeds, labels, options.seed)
    search = Search(model, sha256, output, dataset, labels is not None, options)
    return search.run(watcher or Watcher())


class Search:
    """One search.

    Attributes:
        standing: its trials, and how they stand.
    """

    def __init__(
        self,
        model: Path,
        sha256: str,
        output: Path,
        dataset: Dataset,
        has_labels: bool,
        options: SearchOptions,
    ) -> None:
        self.model = model
        self.output = output
        self.options = options
        self._dataset = dataset
        self._sha256 = sha256
        name = options.metric or ("top1" if has_labels else "cosine")
        self._metric = None if options.evaluate else metric_named(name, has_labels)
        self.metric_name = "evaluate" if self._metric is None else self._metric.name
        is_higher_better = self._metric is None or self._metric.is_higher_better
        self.standing = Standing(options.goal, is_higher_better)
        self._backend = backend_for(options.compile.target)
        self._start = time.monotonic()
        self._longest_s = 0.0
        self._known_judge: Judge | None = None
        self._predictions: Predictions | None = None
        self._threads = options.threads or cpu.available_cores()
        self._folder = output.with_name(output.name + _FOLDER_SUFFIX)
        self._builder = Builder(model, options, dataset, self._threads, self._folder)
        self._sensitive: dict[Recipe, tuple[str, ...]] = {}

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.options.time_budget_s - (time.monotonic() - self._start)

    def run(self, watcher: Watcher) -> Result:
        """Try candidates until the strategy or the time is at its end."""
        with open_journal(self._folder, self._subject(), self.options.resume) as journal:
            publisher = Publisher(self.output, journal, self.run_of)
            is_done = self._explore(publisher, watcher)
            return self._finish(publisher, "done" if is_done else "budget")

    def _explore(self, publisher: Publisher, watcher: Watcher) -> bool:
        """Follow the strategy; False where the time does not suffice for it."""
        journal, standing = publisher.journal, self.standing
        strategy = default_strategy(self._space(journal))
        known = {trial.recipe: trial for trial in journal.trials}
        recipe = next(strategy)
        while True:
            trial = known.get(recipe)
            is_new = trial is None
            if trial is None:
                if standing.trials and self.left_s < self._needed_s(recipe):
                    return False
                watcher.started(recipe, self)
                trial = self._try(recipe, journal)
            standing.trials.append(trial)
            if is_new:  # what was found before has been published, and may be gone since
                publisher.publish(standing.best())
                publisher.clear(standing)
            watcher.finished(trial, self)
            try:
                recipe = strategy.send(trial)
            except StopIteration:
                return True

    def _try(self, recipe: Recipe, journal: Journal) -> Trial:
        """Build, judge and time a candidate; what fails is written down as failed."""
        start = time.monotonic()
        trial = Trial(1 + max((t.number for t in journal.trials), default=-1), recipe)
        artifact = journal.artifact(trial)
        try:
            if recipe.tuned:
                left_s = self.left_s - 2 * self._longest_s
                self._builder.tune(recipe, min(left_s, self.options.time_budget_s / 2))
            built = self._builder.build(recipe, artifact)
            self._sensitive[recipe] = built.sensitive_nodes
            trial = replace(trial, code=code_of(built))
            require_new(trial, journal.trials)
            judge = self._judge(journal, artifact)
            score = judge.score(artifact, self._dataset.search)
            median_ms, ratio = judge.speed(artifact)
        except RelaxcError as err:
            if not self.standing.trials:
                raise
            trial = replace(trial, error=str(err), seconds=time.monotonic() - start)
        else:
            base_ms = (self.standing.base.latency_ms or 0.0) if self.standing.trials else 0.0
            trial = replace(
                trial,
                score=score,
                # Both at the speed that the machine had for the float build.
                latency_ms=base_ms * ratio if self.standing.trials else median_ms,
                ratio=ratio,
                size_bytes=artifact.stat().st_size,
                seconds=time.monotonic() - start,
                passes=pass_seconds(built),
                layers=layers_of(built),
                channels=channels_of(built),
            )
        self._longest_s = max(self._longest_s, trial.seconds)
        journal.add(trial)
        return trial

    def _judge(self, journal: Journal, first: Path) -> Judge:
        """The one judge, who compares with the float build, which is the first artifact."""
        if self._known_judge is None:
            self._known_judge = Judge(
                journal.artifact(self.standing.base) if self.standing.trials else first,
                self._dataset,
                self._metric,
                self.options.evaluate,
                self._threads,
                self.options.latency_s,
            )
        return self._known_judge

    def _space(self, journal: Journal) -> Space:
        def predicted_s(recipe: Recipe) -> float:  # asked once the float build is there
            if self._predictions is None:
                self._predictions = Predictions(journal.artifact(self.standing.base), self._threads)
            return self._predictions.seconds(recipe)

        return Space(
            predicted_s=predicted_s,
            precisions=[p for p in _PRECISIONS if self._has_precision(p)],
            has_integers=self._backend.has_integer_kernels,
            has_sparse_kernels=self._backend.block_outputs is not None,
            can_tune=self.options.tune and can_tune(self.options.compile.target),
            is_small=self.options.goal.max_size_bytes is not None,
            drop=self.standing.drop,
            allowed=self.standing.allowed_drop,
            best=lambda: self.standing.best_by_accuracy().recipe,
            sensitive_nodes=self._sensitive_nodes,
        )

    def _sensitive_nodes(self, recipe: Recipe) -> tuple[str, ...]:
        """As the build of a recipe measured; a search that is resumed builds it again."""
        if recipe not in self._sensitive:
            with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
                built = self._builder.build(recipe, Path(folder) / "model.rxc")
            self._sensitive[recipe] = built.sensitive_nodes
        return self._sensitive[recipe]

    def _needed_s(self, recipe: Recipe) -> float:
        """What a trial takes at least, as far as one can tell."""
        return self._longest_s * 2 + _LEAST_TUNING_S if recipe.tuned else self._longest_s

    def _has_precision(self, precision: Precision) -> bool:
        try:
            self._backend.with_precision(precision)
        except RelaxcError:
            return False
        return True

    def run_of(self, trial: Trial) -> Run:
        """What it takes to build a trial's artifact again."""
        return Run(
            recipe=trial.recipe,
            seed=self.options.seed,
            model_sha256=self._sha256,
            data_sha256=self._dataset.sha256,
            target=self.options.compile.target,
            input_shapes=self.options.compile.input_shapes,
            versions=versions(),
            records=self._builder.records() if trial.recipe.tuned else (),
        )

    def _subject(self) -> dict[str, Any]:
        """What must be the same for a search to go on."""
        goal = self.options.goal
        return {
            "schema_version": 1,
            "model": self._sha256,
            "data": self._dataset.sha256,
            "metric": self.metric_name,
            "max_drop": str(goal.max_drop),
            "tune": self.options.tune,
            "seed": self.options.seed,
            "threads": self._threads,
            "target": self._backend.describe(),
            "input_shapes": {n: list(s) for n, s in self.options.compile.input_shapes.items()},
            "versions": versions(),
        }

    def _finish(self, publisher: Publisher, stopped: Literal["done", "budget"]) -> Result:
        """Judge the winner on data that was held out; the next best takes its place if needed."""
        journal, standing = publisher.journal, self.standing
        judge = self._judge(journal, journal.artifact(standing.base))
        part = self._dataset.held_out
        base = judge.score(journal.artifact(standing.base), part)
        allowed = self.options.goal.max_drop.allowed(base)
        for trial in standing.ranked(standing.front()):
            score = judge.score(journal.artifact(trial), part)
            drop = judge.drop(score, base)
            if drop <= allowed or trial.number == standing.base.number:
                break
        publisher.publish(trial)
        if self.options.pareto_dir is not None:
            publisher.export(standing.front(), self.options.pareto_dir)
        return Result(
            output=self.output,
            base_artifact=journal.artifact(standing.base),
            sample=dict(self._dataset.search.feeds[0]),
            best=trial,
            base=standing.base,
            trials=tuple(standing.trials),
            front=tuple(standing.front()),
            metric=self.metric_name,
            goal=self.options.goal,
            meets_goal=standing.meets_goal(trial) and drop <= allowed,
            held_out_score=score,
            held_out_base=base,
            held_out_drop=drop,
            allowed_drop=standing.allowed_drop(),
            is_split=self._dataset.is_split,
            is_higher_better=judge.is_higher_better,
            onnxruntime_ratio=judge.ratio_to_onnxruntime(self.output, self.model),
            stopped=stopped,
            seconds=time.monotonic() - self._start,
        )
