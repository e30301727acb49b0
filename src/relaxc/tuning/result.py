"""What tuning found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relaxc.targets.tuning.task import Choice


@dataclass(frozen=True)
class TunedKernel:
    """One kernel of the model.

    Attributes:
        task: its description.
        key: of its records.
        calls: places in the model.
        choices: that it can be written with.
        trials: that have been measured, in all calls.
        choice: what it will be written with; None: what it is without tuning.
        before_s, after_s: per inference, all calls together; None if not measured.
        of_peak: of what the machine can do, afterwards.
        share: of the untuned model's time.
    """

    task: str
    key: str
    calls: int
    choices: int
    trials: int
    choice: Choice | None
    before_s: float | None
    after_s: float | None
    of_peak: float | None
    share: float | None


@dataclass(frozen=True)
class TuneResult:
    """What tuning found.

    Attributes:
        records: where it is kept.
        kernels: in the model's order.
        before_s, after_s: an inference, untuned and tuned, measured in turns; None if not measured.
        ratio: of the two, cautiously.
        trials: of this call.
        known_trials: of all calls, on the model's kernels.
        spent_s: on them.
        seconds: that this call took.
        stopped: `done`: nothing is left to try; `trials` or `time`: the budget is spent; `dry run`;
            `candidates`: they were written, for measuring elsewhere; `measured`: results were read.
        warnings: about the records.
        folder: of candidates that were written.
        candidates: how many.
    """

    records: Path
    kernels: tuple[TunedKernel, ...]
    before_s: float | None
    after_s: float | None
    ratio: float | None
    trials: int
    known_trials: int
    spent_s: float
    seconds: float
    stopped: str
    warnings: tuple[str, ...] = ()
    folder: Path | None = None
    candidates: int = 0
