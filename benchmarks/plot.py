"""The pictures of `benchmarks/cpu.py` and `benchmarks/quantize_speed.py`: ratios of times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from suite import FAMILIES


class Measured(Protocol):
    """A row of the benchmark."""

    @property
    def model(self) -> str:
        """What was run."""

    @property
    def min_ms(self) -> dict[str, float]:
        """Milliseconds by engine."""

    def ratio(self, times: dict[str, float]) -> float:
        """relaxc's time relative to the better float32 peer's."""


def plot_ratios(configurations: Mapping[tuple[int, int], Sequence[Measured]], path: Path) -> None:
    """Draw one bar per model in one panel per configuration of (threads, batch)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    colors = dict(zip((f.name for f in FAMILIES), ("#1b7f79", "#e08e1b", "#5b5ea6", "#8a8a8a")))
    family = {model: f for f in FAMILIES for model in f.models}
    count = len(configurations)
    measured = {row.model for rows in configurations.values() for row in rows}
    # One place per model in all panels, wherever it was measured.
    places = {name: i for i, name in enumerate(name for name in family if name in measured)}
    figure, panels = pyplot.subplots(
        1, count, figsize=(2.2 + 3.2 * count, 5.2), sharey=True, squeeze=False
    )
    for panel, ((threads, batch), rows) in zip(panels[0], configurations.items()):
        names = [row.model for row in rows]
        ratios = [row.ratio(row.min_ms) for row in rows]
        hues = [colors[family[name].name] for name in names]
        panel.barh([places[name] for name in names], ratios, color=hues, height=0.72)
        for name, ratio in zip(names, ratios):
            panel.text(0.03, places[name], f"{ratio:.2f}", va="center", color="white")
        panel.axvline(1, color="black", linewidth=1)
        panel.set_title(f"{threads} thread{'s' * (threads > 1)}, batch {batch}", fontsize=10)
        panel.set_yticks(list(places.values()), list(places))
        panel.set_xlim(0, max(1.1, *ratios))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].invert_yaxis()
    figure.supxlabel("time of relaxc / better of ONNX Runtime and OpenVINO float32", fontsize=10)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=hue) for hue in colors.values()]
    width = min(len(colors), 2 * count)  # two names over each panel
    figure.legend(handles, list(colors), loc="upper center", ncols=width, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.94 if width == len(colors) else 0.9))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_int8(models: Sequence[str], ratios: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw how long int8 takes, relative to several other ways, in one panel for each.

    Args:
        models: one per row.
        ratios: by what they are relative to; one per model.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(ratios), figsize=(2.2 + 3.0 * len(ratios), 3.4), sharey=True, squeeze=False
    )
    places = range(len(models))
    for panel, (name, values) in zip(panels[0], ratios.items()):
        panel.barh(places, values, color="#1b7f79", height=0.72)
        for place, ratio in zip(places, values):
            panel.text(0.03, place, f"{ratio:.2f}", va="center", color="white")
        panel.axvline(1, color="black", linewidth=1)
        panel.set_title(f"of {name}", fontsize=10)
        panel.set_yticks(places, models)
        panel.set_xlim(0, max(1.1, *values))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].invert_yaxis()
    figure.supxlabel("time of relaxc int8", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_drops(drops: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw how many points of accuracy each way to prune costs, one bar per set of images.

    Args:
        drops: by what was done.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(7, 0.8 + 0.34 * len(drops)))
    sets = len(next(iter(drops.values())))
    for number, hue in zip(range(sets), ("#1b7f79", "#e08e1b")):
        places = [i + 0.36 * (number - (sets - 1) / 2) for i in range(len(drops))]
        values = [points[number] for points in drops.values()]
        panel.barh(places, values, color=hue, height=0.34)
        for place, value in zip(places, values):
            panel.text(max(value, 0) + 0.5, place, f"{value:.1f}", va="center", fontsize=7)
    panel.set_yticks(range(len(drops)), list(drops), fontsize=8)
    panel.invert_yaxis()
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlabel("points of accuracy lost")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
