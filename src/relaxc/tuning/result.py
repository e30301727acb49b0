"""What tuning found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relaxc.targets.tuning.history import History
from relaxc.targets.tuning.task import Choice
from relaxc.tuning.plan import Entry


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

    @staticmethod
    def of(
        entry: Entry,
        history: History,
        before_s: float | None,
        least_s: float | None = None,
        total_s: float | None = None,
    ) -> TunedKernel:
        """What is known about a kernel.

        Args:
            entry: the kernel.
            history: its trials, and what follows from them.
            before_s: as above.
            least_s: what the machine needs at least, if that is known.
            total_s: the untuned model's time, likewise.
        """
        decision = history.decide(entry.task)
        choice = None if decision is None else decision.choice
        ratio = 1.0 if decision is None or choice is None else decision.ratio
        return TunedKernel(
            task=str(entry.task),
            key=entry.task.key,
            calls=entry.calls,
            choices=len(entry.space),
            trials=len(history.trials(entry.task)),
            choice=choice,
            before_s=before_s,
            after_s=None if before_s is None else before_s * ratio,
            of_peak=least_s / (before_s * ratio) if before_s and least_s else None,
            share=before_s / total_s if before_s and total_s else None,
        )


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
