"""Accuracy, latency and size of all trials of a search in one chart."""

from __future__ import annotations

from relaxc.report import units
from relaxc.report.html.charts import BLUE, GREY, VERMILION, axes, point, spread, titled
from relaxc.search.result import Result

_LARGEST_AREA, _SMALLEST_AREA = 400.0, 40.0


def pareto_chart(result: Result) -> str:
    """Drop over latency; a point's area is the artifact's size, the winner is red."""
    trials = [trial for trial in result.trials if trial.is_ok]
    drops = {trial.number: result.drop(trial) for trial in trials}
    latencies = {trial.number: trial.latency_ms or 0.0 for trial in trials}
    largest = max(trial.size_bytes or 1 for trial in trials)
    front = {trial.number for trial in result.front}
    titles = {}
    with axes(8, 4.2) as (axis, svg):
        line = sorted((latencies[number], drops[number]) for number in front)
        axis.step(*zip(*line), where="post", color=BLUE, linewidth=1.2, alpha=0.6, zorder=1)
        for trial in trials:
            is_best = trial.number == result.best.number
            name = f"trial-point-{trial.number}"
            area = max(_SMALLEST_AREA, _LARGEST_AREA * (trial.size_bytes or 1) / largest)
            point(
                axis,
                latencies[trial.number],
                drops[trial.number],
                size=area,
                color=VERMILION if is_best else BLUE if trial.number in front else GREY,
                name=name,
                link=f"#trial-{trial.number}",
                alpha=0.85,
                zorder=3 if is_best else 2,
            )
            titles[name] = (
                f"{trial.recipe}: {trial.latency_ms:.4g} ms, drop {drops[trial.number]:.3g}, "
                f"{units.size(trial.size_bytes or 0)}"
            )
        axis.axhline(result.allowed_drop, color=VERMILION, linestyle="--", linewidth=1)
        axis.annotate(
            f"allowed: {result.goal.max_drop}",
            (1, result.allowed_drop),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=9,
        )
        shown = [*drops.values(), result.allowed_drop]
        axis.set_ylim(min(shown) - spread(shown), max(shown) + 2 * spread(shown))
        axis.set_xlim(0, 1.1 * max(latencies.values()))
        axis.set_xlabel("latency in ms (less is better)")
        axis.set_ylabel(f"loss of {result.metric} (less is better)")
    return titled(svg[0], titles)
