"""Sensitivity of groups as a table and as a plot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from relaxc.errors import TargetError
from relaxc.passes.prune.sensitivity import Point
from relaxc.report.figures import write_figure
from relaxc.report.tables import table


def as_json(points: Iterable[Point], subject: Any) -> dict[str, Any]:
    """Groups in the order in which they were measured."""
    return {
        **subject,
        "groups": {
            name: {
                "channels": curve[0].channels,
                "points": [
                    {"ratio": p.ratio, "removed": p.removed, "value": p.value} for p in curve
                ],
            }
            for name, curve in _curves(points).items()
        },
    }


def as_text(points: Iterable[Point]) -> str:
    """A line per group, the most sensitive first."""
    curves = _curves(points)
    ratios = sorted({p.ratio for curve in curves.values() for p in curve})
    order = sorted(curves.items(), key=lambda item: -max(p.value for p in item[1]))
    rows = []
    for name, curve in order:
        values = {p.ratio: f"{p.value:.3g}" for p in curve}
        rows.append([name, str(curve[0].channels), *(values.get(r, "") for r in ratios)])
    return table(["Group", "Channels", *(f"-{ratio:.0%}" for ratio in ratios)], rows)


def plot(path: Path, points: Iterable[Point], measure: str) -> None:
    """Draw a line per group; the file's suffix says the format.

    Raises:
        TargetError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as err:
        raise TargetError('plots need matplotlib; run `pip install "relaxc[report]"`') from err
    curves = sorted(_curves(points).items(), key=lambda item: -max(p.value for p in item[1]))
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for rank, (name, curve) in enumerate(curves):
        ordered = sorted(curve, key=lambda p: p.ratio)
        xs = [0.0, *(100 * p.removed / p.channels for p in ordered)]
        label = f"{name} ({curve[0].channels})" if rank < _NAMED else None
        color = f"C{rank}" if rank < _NAMED else "0.8"
        axes.plot(
            xs,
            [0.0, *(p.value for p in ordered)],
            marker=".",
            color=color,
            label=label,
            zorder=-rank,
        )
    axes.set_xlabel("channels of the group that are gone, %")
    axes.set_ylabel(measure)
    axes.legend(fontsize="small", title="most sensitive first")
    axes.grid(alpha=0.3)
    write_figure(figure, path)


# Lines with a colour and a name; the others are grey.
_NAMED = 10


def _curves(points: Iterable[Point]) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = {}
    for point in points:
        curves.setdefault(point.group, []).append(point)
    return curves
