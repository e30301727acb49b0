"""The picture of `quantize_accuracy.py`: how exact outputs are, by what makes up for rounding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Measured(Protocol):
    """A line of the table."""

    @property
    def model(self) -> str:
        """What was quantized."""

    @property
    def scheme(self) -> str:
        """How."""

    @property
    def case(self) -> str:
        """By whom, and with which options."""

    @property
    def sqnr(self) -> float:
        """Of the first output, dB."""

    @property
    def is_ok(self) -> bool:
        """Whether it keeps what is promised."""


def plot_exactness(rows: Sequence[Measured], path: Path) -> None:
    """Draw a panel per model and scheme, a bar per case; hatched where the promise is broken."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((row.model, row.scheme) for row in rows))
    counts = [sum((r.model, r.scheme) == panel for r in rows) for panel in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(7, 0.5 + sum(0.5 + 0.24 * count for count in counts)),
        gridspec_kw={"height_ratios": [1 + count for count in counts]},
        squeeze=False,
        sharex=True,
    )
    for (model, scheme), axis in zip(panels, axes[:, 0]):
        shown = [r for r in rows if (r.model, r.scheme) == (model, scheme)]
        colors = ["#e08e1b" if r.case == "ONNX Runtime" else "#1b7f79" for r in shown]
        bars = axis.barh(range(len(shown)), [max(r.sqnr, 0) for r in shown], color=colors)
        for place, (row, bar) in enumerate(zip(shown, bars)):
            bar.set_hatch("" if row.is_ok else "///")
            axis.text(max(row.sqnr, 0) + 0.3, place, f"{row.sqnr:.1f}", va="center", fontsize=8)
        axis.set_yticks(range(len(shown)), [r.case for r in shown], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(f"{model}, {scheme}", fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        "signal to noise of the first output, dB; hatched: the bar is missed", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
