"""What the user asks of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relaxc.errors import OptionError
from relaxc.options import CompileOptions
from relaxc.search.goal import Goal
from relaxc.search.judge import Evaluate


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search.

    Attributes:
        goal: what the artifact has to meet.
        metric: one of `METRICS`; None takes `top1` where there are labels, else `cosine`.
        evaluate: the user's own metric, in place of a built-in one.
        time_budget_s: when to stop; the float build is finished in any case.
        seed: of the split of the data.
        threads: threads per inference; one per core by default.
        resume: go on where an earlier search for the same thing ended.
        compile: target and shapes, the same for all candidates.
        pareto_dir: folder to receive the artifacts of the Pareto front; None for none.
        tune: whether to tune the kernels of the best, in half of the time at most.
        latency_s: time to measure a candidate's speed for.
    """

    goal: Goal = field(default_factory=Goal)
    metric: str | None = None
    evaluate: Evaluate | None = None
    time_budget_s: float = 1800
    seed: int = 0
    threads: int | None = None
    resume: bool = False
    compile: CompileOptions = field(default_factory=CompileOptions)
    pareto_dir: Path | None = None
    tune: bool = True
    latency_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.time_budget_s > 0:
            raise OptionError("the time budget must be positive")
        if self.seed < 0:
            raise OptionError(f"the seed must not be negative, not {self.seed}")
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"there must be at least one thread, not {self.threads}")
        if self.compile.quantize is not None or self.compile.precision != "float32":
            raise OptionError("the search chooses precision and quantization itself")
        if self.metric is not None and self.evaluate is not None:
            raise OptionError("give either a metric or a function to evaluate with, not both")
