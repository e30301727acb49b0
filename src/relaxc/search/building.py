"""Builds the candidates of a search; tunes the kernels of those that are to be tuned."""

from __future__ import annotations

import json
from pathlib import Path

from relaxc.compiler import CompileResult, compile
from relaxc.search.dataset import Dataset
from relaxc.search.options import SearchOptions
from relaxc.search.recipe import Recipe
from relaxc.targets.registry import backend_for
from relaxc.targets.tuning.history import History
from relaxc.targets.tuning.records import FILE, RecordStore, canonical
from relaxc.tuning.maintain import essential
from relaxc.tuning.options import TuneOptions
from relaxc.tuning.tune import tune


class Builder:
    """Builds candidates of one model.

    Args:
        model: the ONNX file.
        options: of the search.
        dataset: whose first part calibrates, and recovers what pruning costs.
        threads: that kernels are tuned for.
        folder: keeps what tuning measures.
    """

    def __init__(
        self, model: Path, options: SearchOptions, dataset: Dataset, threads: int, folder: Path
    ) -> None:
        self._model = model
        self._options = options
        self._samples = dataset.calibration.feeds
        self._threads = threads
        self._records = folder / FILE

    def build(self, recipe: Recipe, artifact: Path) -> CompileResult:
        """Compile a candidate, with what tuning has found so far if it asks for that."""
        return compile(
            self._model,
            artifact,
            recipe.options(self._options.compile, self._records),
            calibration_data=self._samples,
            recovery_data=self._samples,
        )

    def tune(self, recipe: Recipe, seconds: float) -> None:
        """Measure the kernels of a candidate for so long; earlier calls count."""
        options = TuneOptions(
            time_budget_s=seconds,
            seed=self._options.seed,
            records=self._records,
            threads=self._threads,
            compile=recipe.options(self._options.compile, None),
        )
        tune(
            self._model,
            options,
            calibration_data=self._samples,
            recovery_data=self._samples,
        )

    def records(self) -> tuple[str, ...]:
        """What it takes to build a tuned candidate again: records, one line of JSON each."""
        return tuple(canonical(r) for r in essential(RecordStore(self._records).read().records))


def write_records(path: Path, records: tuple[str, ...]) -> None:
    """Make a file of records of what `Builder.records` gave."""
    RecordStore(path).append(json.loads(record) for record in records)


def can_tune(target: str) -> bool:
    """Whether kernels of a target have anything to tune that can be measured here."""
    backend = backend_for(target)
    if backend.needs_device:
        return False
    return backend.with_records(History([])) is not backend
