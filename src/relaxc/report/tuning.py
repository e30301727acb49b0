"""What `relaxc tune` says, on the way and at the end."""

from __future__ import annotations

from typing import Any

from relaxc.report.tables import facts, table
from relaxc.tuning.result import TunedKernel, TuneResult
from relaxc.tuning.session import Progress

_STOPPED = {
    "done": "nothing is left to try",
    "trials": "all trials are used up",
    "time": "the time is used up",
    "dry run": "nothing was measured",
    "candidates": "nothing was measured here",
    "measured": "what was measured has been read",
}
_HEADINGS = (
    "Kernel",
    "Calls",
    "Choices",
    "Trials",
    "Before us",
    "After us",
    "x",
    "Of peak",
    "Share",
)
# What a candidate takes to build and to measure, where nothing is known of it.
_TRIAL_S = 0.3


def progress_line(progress: Progress) -> str:
    """One batch, and what it means."""
    gain = ""
    if progress.total_s > progress.saved_s:
        gain = f"; model {progress.total_s / (progress.total_s - progress.saved_s):.2f}x"
    minutes, seconds = divmod(max(0, int(progress.left_s)), 60)
    rate = progress.trials / progress.elapsed_s if progress.elapsed_s else 0.0
    return (
        f"{progress.entry.task}: {1 / progress.best:.2f}x{gain}; {progress.trials} trials, "
        f"{rate:.1f}/s; {minutes}:{seconds:02} left"
    )


def as_text(result: TuneResult) -> str:
    """What was found, kernel by kernel, the costliest first."""
    lines = [("Records", str(result.records))]
    if result.before_s and result.after_s and result.ratio:
        lines.append(
            (
                "Model",
                f"{result.before_s * 1e3:.3f} ms untuned, {result.after_s * 1e3:.3f} ms tuned: "
                f"{1 / result.ratio:.2f}x",
            )
        )
    why = _STOPPED[result.stopped]
    lines.append(
        (
            "Trials",
            f"{result.trials} now in {result.seconds:.0f} s, {result.known_trials} in all "
            f"({result.spent_s:.0f} s); {why}",
        )
    )
    if result.stopped == "dry run":
        lines.append(("Estimate", f"{estimate_s(result):.0f} s for all choices"))
    if result.folder is not None:
        lines.append(("Candidates", f"{result.candidates}, in {result.folder}"))
        lines.append(
            (
                "Next",
                f"`python {result.folder}/measure.py` where the GPU is, then this command with "
                "`--measured` instead of `--candidates`",
            )
        )
    ordered = sorted(result.kernels, key=lambda k: -(k.before_s or 0.0))
    return facts(lines) + "\n\n" + table(_HEADINGS, [_row(kernel) for kernel in ordered])


def estimate_s(result: TuneResult) -> float:
    """What it would take to measure every choice that has not been."""
    each = result.spent_s / result.known_trials if result.known_trials else _TRIAL_S
    return each * sum(max(kernel.choices - 1 - kernel.trials, 0) for kernel in result.kernels)


def _row(kernel: TunedKernel) -> tuple[str, ...]:
    before, after = kernel.before_s, kernel.after_s
    return (
        kernel.task,
        str(kernel.calls),
        str(kernel.choices),
        str(kernel.trials),
        "" if before is None else f"{before * 1e6:.1f}",
        "" if after is None else f"{after * 1e6:.1f}",
        f"{before / after:.2f}" if before and after else "",
        "" if kernel.of_peak is None else f"{kernel.of_peak:.0%}",
        "" if kernel.share is None else f"{kernel.share:.1%}",
    )


def as_json(result: TuneResult) -> dict[str, Any]:
    """The machine-readable form."""
    return {
        "records": str(result.records),
        "before_ms": None if result.before_s is None else result.before_s * 1e3,
        "after_ms": None if result.after_s is None else result.after_s * 1e3,
        "ratio": result.ratio,
        "trials": result.trials,
        "known_trials": result.known_trials,
        "spent_s": result.spent_s,
        "seconds": result.seconds,
        "stopped": result.stopped,
        "folder": None if result.folder is None else str(result.folder),
        "candidates": result.candidates,
        "estimate_s": estimate_s(result),
        "warnings": list(result.warnings),
        "kernels": [
            {
                "task": kernel.task,
                "key": kernel.key,
                "calls": kernel.calls,
                "choices": kernel.choices,
                "trials": kernel.trials,
                "choice": None if kernel.choice is None else dict(kernel.choice),
                "before_us": None if kernel.before_s is None else kernel.before_s * 1e6,
                "after_us": None if kernel.after_s is None else kernel.after_s * 1e6,
                "of_peak": kernel.of_peak,
                "share": kernel.share,
            }
            for kernel in result.kernels
        ],
    }
