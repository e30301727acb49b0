"""optimize(): the fastest artifact that keeps a model's accuracy, within a time budget."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
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
from relaxc.replacing import replacing
from relaxc.search.building import Builder, can_tune
from relaxc.search.builds import (
    channels_of,
    code_of,
    copy_artifact,
    layers_of,
    pass_seconds,
    require_new,
)
from relaxc.search.dataset import Dataset, feeds_of, split
from relaxc.search.journal import Journal, Trial, open_journal
from relaxc.search.judge import Judge
from relaxc.search.metrics import metric_named
from relaxc.search.options import SearchOptions
from relaxc.search.pareto import pareto_front
from relaxc.search.predictions import Predictions
from relaxc.search.ranking import Miss, ranked
from relaxc.search.recipe import Recipe, Run
from relaxc.search.result import Result
from relaxc.search.strategy import Space, default_strategy
from relaxc.targets.registry import backend_for

# Beside the artifact: what the search has tried.
_FOLDER_SUFFIX = ".search"
_RECIPE_SUFFIX = ".recipe.yaml"
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
    require_writable(output)
    feeds, sha256 = feeds_of(model, data, options.compile)
    dataset = split(feeds, labels, options.seed)
    search = Search(model, sha256, output, dataset, labels is not None, options)
    return search.run(watcher or Watcher())


class Search:
    """One search: what it knows so far."""

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
        self._backend = backend_for(options.compile.target)
        self._start = time.monotonic()
        self._longest_s = 0.0
        self._published = -1
        self._known_judge: Judge | None = None
        self._predictions: Predictions | None = None
        self._threads = options.threads or cpu.available_cores()
        self._folder = output.with_name(output.name + _FOLDER_SUFFIX)
        self._builder = Builder(model, options, dataset, self._threads, self._folder)
        self._sensitive: dict[Recipe, tuple[str, ...]] = {}
        self.trials: list[Trial] = []

    @property
    def base(self) -> Trial:
        """The float build's trial."""
        return self.trials[0]

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.options.time_budget_s - (time.monotonic() - self._start)

    def drop(self, trial: Trial) -> float:
        """How much worse a trial is than the float build; infinite where it failed."""
        if trial.score is None or self.base.score is None:
            return float("inf")
        sign = 1 if self._metric is None or self._metric.is_higher_better else -1
        return sign * (self.base.score - trial.score)

    def allowed_drop(self) -> float:
        """How much worse an artifact may be."""
        return self.options.goal.max_drop.allowed(self.base.score or 0.0)

    def meets_goal(self, trial: Trial) -> bool:
        """Whether a trial keeps accuracy, latency and size."""
        return trial.is_ok and not any(self._excess(trial))

    def best(self) -> Trial:
        """The fastest that meets the goal, else the one that misses it least."""
        return next(self._ranked(self._done()))

    def _done(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.is_ok]

    def _ranked(self, trials: Iterable[Trial], miss: Miss | None = None) -> Iterator[Trial]:
        return ranked(trials, miss or (lambda trial: sum(self._excess(trial))), self.drop)

    def _loss(self, trial: Trial) -> float:
        return max(0.0, self.drop(trial) - self.allowed_drop())

    def _excess(self, trial: Trial) -> tuple[float, float, float]:
        """By how much a trial misses each part of the goal, relative to the limit."""
        goal = self.options.goal
        over = self._loss(trial)
        scale = max(self.allowed_drop(), 0.01 * abs(self.base.score or 0.0), 1e-9)
        return (
            over / scale,
            _over(trial.latency_ms, goal.max_latency_ms),
            _over(trial.size_bytes, goal.max_size_bytes),
        )

    def run(self, watcher: Watcher) -> Result:
        """Try candidates until the strategy or the time is at its end."""
        with open_journal(self._folder, self._subject(), self.options.resume) as journal:
            is_done = self._explore(journal, watcher)
            return self._finish(journal, "done" if is_done else "budget")

    def _explore(self, journal: Journal, watcher: Watcher) -> bool:
        """Follow the strategy; False where the time does not suffice for it."""
        strategy = default_strategy(self._space(journal))
        known = {trial.recipe: trial for trial in journal.trials}
        recipe = next(strategy)
        while True:
            trial = known.get(recipe)
            is_new = trial is None
            if trial is None:
                if self.trials and self.left_s < self._needed_s(recipe):
                    return False
                watcher.started(recipe, self)
                trial = self._try(recipe, journal)
            self.trials.append(trial)
            if is_new:  # what was found before has been published, and may be gone since
                self._publish(self.best(), journal)
                self._clear(journal)
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
            if not self.trials:
                raise
            trial = replace(trial, error=str(err), seconds=time.monotonic() - start)
        else:
            trial = replace(
                trial,
                score=score,
                # Both at the speed that the machine had for the float build.
                latency_ms=(self.trials[0].latency_ms or 0.0) * ratio if self.trials else median_ms,
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
                journal.artifact(self.trials[0]) if self.trials else first,
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
                self._predictions = Predictions(journal.artifact(self.base), self._threads)
            return self._predictions.seconds(recipe)

        return Space(
            predicted_s=predicted_s,
            precisions=[p for p in _PRECISIONS if self._has_precision(p)],
            has_integers=self._backend.has_integer_kernels,
            has_sparse_kernels=self._backend.block_outputs is not None,
            can_tune=self.options.tune and can_tune(self.options.compile.target),
            is_small=self.options.goal.max_size_bytes is not None,
            drop=self.drop,
            allowed=self.allowed_drop,
            best=lambda: next(self._ranked(self._done(), self._loss)).recipe,
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

    def _publish(self, trial: Trial, journal: Journal) -> None:
        """Put an artifact and its recipe where the user wants them."""
        if trial.number == self._published:
            return
        copy_artifact(journal.artifact(trial), self.output)
        with replacing(self.output.with_name(self.output.name + _RECIPE_SUFFIX)) as file:
            file.write(self.run_of(trial).to_yaml().encode())
        self._published = trial.number

    def _export_front(self, journal: Journal, folder: Path) -> None:
        """Copy the artifacts that no other one beats, each with its recipe."""
        folder.mkdir(parents=True, exist_ok=True)
        for trial in self.front():
            copy_artifact(journal.artifact(trial), folder / journal.artifact(trial).name)
            recipe = folder / f"{trial.number:03}{_RECIPE_SUFFIX}"
            recipe.write_text(self.run_of(trial).to_yaml(), encoding="utf-8")

    def _clear(self, journal: Journal) -> None:
        """Drop the artifacts that nobody will ask for."""
        kept = {self.base.number, self._published, *(t.number for t in self.front())}
        for trial in self.trials:
            if trial.number not in kept:
                journal.artifact(trial).unlink(missing_ok=True)

    def front(self) -> list[Trial]:
        """The trials that no other one beats."""
        return pareto_front(self.trials, self.drop)

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

    def _finish(self, journal: Journal, stopped: Literal["done", "budget"]) -> Result:
        """Judge the winner on data that was held out; the next best takes its place if needed."""
        judge = self._judge(journal, journal.artifact(self.base))
        part = self._dataset.held_out
        base = judge.score(journal.artifact(self.base), part)
        allowed = self.options.goal.max_drop.allowed(base)
        for trial in self._ranked(self.front()):
            score = judge.score(journal.artifact(trial), part)
            drop = judge.drop(score, base)
            if drop <= allowed or trial.number == self.base.number:
                break
        self._publish(trial, journal)
        if self.options.pareto_dir is not None:
            self._export_front(journal, self.options.pareto_dir)
        return Result(
            output=self.output,
            base_artifact=journal.artifact(self.base),
            sample=dict(self._dataset.search.feeds[0]),
            best=trial,
            base=self.base,
            trials=tuple(self.trials),
            front=tuple(self.front()),
            metric=self.metric_name,
            goal=self.options.goal,
            meets_goal=self.meets_goal(trial) and drop <= allowed,
            held_out_score=score,
            held_out_base=base,
            held_out_drop=drop,
            allowed_drop=self.allowed_drop(),
            is_split=self._dataset.is_split,
            is_higher_better=judge.is_higher_better,
            onnxruntime_ratio=judge.ratio_to_onnxruntime(self.output, self.model),
            stopped=stopped,
            seconds=time.monotonic() - self._start,
        )


def _over(value: float | None, limit: float | None) -> float:
    """By how much a value exceeds a limit, relative to it."""
    if value is None or limit is None:
        return 0.0
    return max(0.0, value / limit - 1)
