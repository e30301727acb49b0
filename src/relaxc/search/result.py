"""What a search found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from relaxc.search.goal import Goal
from relaxc.search.journal import Trial


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes:
        output: the artifact.
        base_artifact: the float build.
        sample: inputs of one call, from the data.
        best: its trial.
        base: the float build's trial.
        trials: all of them, in order.
        front: those that no other one beats in drop, latency and size at once.
        metric: the metric's name.
        goal: what was asked for.
        meets_goal: whether the artifact keeps all of it.
        held_out_score: of the artifact, on data that the search never saw.
        held_out_base: of the float build, on the same data.
        held_out_drop: how much worse the artifact is there.
        allowed_drop: of the search's data.
        is_split: whether there were enough samples to hold some out.
        is_higher_better: whether more of the metric is better.
        onnxruntime_ratio: the artifact's latency relative to ONNX Runtime's with the float model,
            measured in turns; None where it is not installed or refuses the model.
        stopped: why the search ended: every candidate was tried, or the time was up.
        seconds: what it took, without earlier runs.
    """

    output: Path
    base_artifact: Path
    sample: Mapping[str, np.ndarray]
    best: Trial
    base: Trial
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    metric: str
    goal: Goal
    meets_goal: bool
    held_out_score: float
    held_out_base: float
    held_out_drop: float
    allowed_drop: float
    is_split: bool
    is_higher_better: bool
    onnxruntime_ratio: float | None
    stopped: Literal["done", "budget"]
    seconds: float

    def drop(self, trial: Trial) -> float:
        """How much worse a trial is than the float build; infinite where it failed."""
        if trial.score is None or self.base.score is None:
            return float("inf")
        lost = self.base.score - trial.score
        return lost if self.is_higher_better else -lost
