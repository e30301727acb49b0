"""What the data of int8 layers hold, as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from relaxc.errors import TargetError
from relaxc.report.figures import write_figure

if TYPE_CHECKING:
    from relaxc.passes.quantize.layer_ranges import LayerRange


def plot(path: Path, ranges: Sequence[LayerRange]) -> None:
    """Draw a row per layer: all values, 98 % and half of them, and what integers stand for.

    Values are relative to the integers' range, so that what they leave unused, or cut off, shows.

    Raises:
        TargetError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as err:
        raise TargetError('plots need matplotlib; run `pip install "relaxc[report]"`') from err
    figure = Figure(figsize=(9, 1.6 + 0.22 * len(ranges)), layout="constrained")
    axes = figure.subplots()
    bands = ((0, 8, 1.5, "0.7", "all"), (2, 6, 4.0, "C0", "98 %"), (3, 5, 8.0, "C1", "half"))
    for row, entry in enumerate(ranges):
        size = max(entry.high - entry.low, 1e-30)
        places = [(value - entry.low) / size for value in entry.quantiles]
        for first, last, width, color, name in bands:
            axes.plot(
                [places[first], places[last]],
                [row, row],
                color=color,
                linewidth=width,
                solid_capstyle="butt",
                label=name if row == 0 else None,
            )
        axes.plot([-entry.low / size], [row], "|", color="black", label="zero" if not row else None)
    for edge in (0, 1):
        axes.axvline(edge, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(ranges)), [entry.node for entry in ranges], fontsize="x-small")
    axes.set_ylim(len(ranges) - 0.5, -0.5)
    axes.set_xlim(-0.5, 1.5)
    axes.set_xlabel("values seen, in units of the range of the integers (0 to 1)")
    axes.legend(fontsize="small", loc="upper right")
    write_figure(figure, path)
