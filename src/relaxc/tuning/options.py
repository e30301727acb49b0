"""What to tune, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relaxc.errors import OptionError
from relaxc.measure.feeds import FeedOptions
from relaxc.options import CompileOptions


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How to tune.

    Attributes:
        trials: candidates to measure at most, those that were measured before included; None: as
            many as the time allows.
        time_budget_s: to spend at most, with what earlier calls have spent on the same kernels.
        tasks: regular expressions; kernels of which none is found in their description stay as
            they are. Empty: all.
        seed: of the search.
        rpc_tracker: `host:port` of TVM's RPC tracker, whose devices measure; None: this machine.
        rpc_key: what those devices are called there.
        candidates: for GPUs: a new folder, which gets compiled candidates to measure elsewhere;
            nothing is measured here.
        measured: such a folder, with results: they become records.
        records: file or folder of records; None is the user's cache.
        threads: per inference, for which kernels are tuned: the target's number of cores; None:
            what the target says.
        checkpoint: keeps the state of distillation, for a model that is pruned with it.
        feed: what to run the model on.
        compile: how the model will be compiled; its `tuning_records` are not looked at.
    """

    trials: int | None = None
    time_budget_s: float = 600.0
    tasks: tuple[str, ...] = ()
    seed: int = 0
    rpc_tracker: str | None = None
    rpc_key: str = ""
    candidates: Path | None = None
    measured: Path | None = None
    records: Path | None = None
    threads: int | None = None
    checkpoint: Path | None = None
    feed: FeedOptions = field(default_factory=FeedOptions)
    compile: CompileOptions = field(default_factory=CompileOptions)

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 0:
            raise OptionError(f"trials must not be negative, not {self.trials}")
        if not self.time_budget_s >= 0:
            raise OptionError("the time budget must not be negative")
        if self.seed < 0:
            raise OptionError(f"the seed must not be negative, not {self.seed}")
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"there must be at least one thread, not {self.threads}")
        if (self.rpc_tracker is None) != (not self.rpc_key):
            raise OptionError("an RPC tracker and a key go together; give both or none")
        if self.candidates is not None and self.measured is not None:
            raise OptionError("candidates are written or results are read, not both at once")
