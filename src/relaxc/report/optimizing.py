"""What `relaxc optimize` says, on the way and at the end."""

from __future__ import annotations

from typing import Any

from relaxc.report import units
from relaxc.report.tables import facts, table
from relaxc.search.journal import Trial
from relaxc.search.optimize import Search
from relaxc.search.recipe import Recipe
from relaxc.search.result import Result

_HEADINGS = ("", "Recipe", "Score", "Drop", "Ms", "x float32", "Size")


def progress_line(trial: Trial, search: Search) -> str:
    """One trial, and what it means."""
    if not trial.is_ok:
        return f"{trial.number:3}  {trial.recipe}: {trial.error}"
    standing = search.standing
    if standing.best().number == trial.number:
        verdict = "best so far"
    else:
        verdict = "keeps the goal" if standing.meets_goal(trial) else "misses"
    return (
        f"{trial.number:3}  {trial.recipe}: score {trial.score:.6g}, "
        f"drop {standing.drop(trial):.3g} (allowed {standing.allowed_drop():.3g}), "
        f"{trial.latency_ms:.4g} ms, {trial.ratio:.2f}x float32; {verdict}; {_left(search.left_s)}"
    )


def _left(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes}:{rest:02} left"


def status(recipe: Recipe, search: Search) -> str:
    """What is going on now, for a line that changes."""
    trials = search.standing.trials
    best = search.standing.best() if trials else None
    so_far = "" if best is None else f"; best so far {best.ratio:.2f}x float32 ({best.recipe})"
    return f"trial {len(trials)}: {recipe}{so_far}; {_left(search.left_s)}"


def warnings(result: Result) -> list[str]:
    """What weakens the result."""
    found = []
    if not result.is_split:
        found.append(
            "there are too few samples to hold some out: calibration, search and verdict use the "
            "same ones"
        )
    if result.metric == "evaluate":
        found.append("your function was called for the search and for the verdict alike")
    return found


def as_text(result: Result) -> str:
    """The verdict, the trials, and where the artifact lies."""
    best = result.best
    drop = f"{result.held_out_drop:.4g}" + ("" if result.is_split else " (on the same data)")
    lines = [
        ("Artifact", f"{result.output} ({units.size(best.size_bytes or 0)})"),
        ("Recipe", str(best.recipe)),
        (
            "Metric",
            f"{result.metric}: {result.held_out_score:.6g}, float32 {result.held_out_base:.6g}",
        ),
        ("Drop", f"{drop} on held-out data; allowed {result.goal.max_drop}"),
        ("Latency", f"{best.latency_ms:.4g} ms, {_speed_ups(result)}"),
        ("Trials", f"{len(result.trials)} in {result.seconds:.0f} s; {_STOPPED[result.stopped]}"),
    ]
    rows = [_row(trial, result) for trial in result.trials]
    return facts(lines) + "\n\n" + table(_HEADINGS, rows, left=2) + "\n\n" + verdict(result)


def _speed_ups(result: Result) -> str:
    ours = f"{1 / (result.best.ratio or 1):.2f}x as fast as the float32 build"
    peer = result.onnxruntime_ratio
    return ours if peer is None else f"{ours}, {1 / peer:.2f}x as fast as ONNX Runtime"


_STOPPED = {
    "done": "every candidate was tried",
    "budget": "the time was up; `--resume` goes on",
}


def verdict(result: Result) -> str:
    """Whether the goal is met, in a sentence."""
    if result.meets_goal:
        return "The goal is met."
    return "GOAL NOT MET: this is the closest; allow a larger drop or more time, or lift a limit."


def _row(trial: Trial, result: Result) -> tuple[str, ...]:
    mark = "*" if trial.number == result.best.number else ""
    if not trial.is_ok:
        return mark, f"{trial.recipe}: {trial.error}", "", "", "", "", ""
    assert trial.score is not None and result.base.score is not None
    return (
        mark,
        str(trial.recipe),
        f"{trial.score:.6g}",
        f"{result.drop(trial):.3g}",
        f"{trial.latency_ms:.4g}",
        f"{trial.ratio:.2f}",
        units.size(trial.size_bytes or 0),
    )


def as_json(result: Result) -> dict[str, Any]:
    """The machine-readable form."""
    return {
        "artifact": str(result.output),
        "meets_goal": result.meets_goal,
        "stopped": result.stopped,
        "seconds": result.seconds,
        "metric": result.metric,
        "max_drop": str(result.goal.max_drop),
        "max_latency_ms": result.goal.max_latency_ms,
        "max_size_bytes": result.goal.max_size_bytes,
        "onnxruntime_ratio": result.onnxruntime_ratio,
        "held_out": {
            "is_split": result.is_split,
            "score": result.held_out_score,
            "float32_score": result.held_out_base,
            "drop": result.held_out_drop,
        },
        "best": result.best.number,
        "front": [trial.number for trial in result.front],
        "trials": [{**t.as_dict(), "drop": result.drop(t)} for t in result.trials],
    }
