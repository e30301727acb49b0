"""Charts as SVG that takes the page's colours, light and dark.

Text and axes are drawn in a colour that stands for the page's own; points link to the page's rows
and carry a title, which browsers show on hover.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any colour vision tell apart.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#808080",
)
# Replaced by the page's text colour.
_INK = "#010203"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "relaxc",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "axes.axisbelow": True,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
    "grid.color": _INK,
}


@contextmanager
def axes(width: float, height: float) -> Iterator[tuple[Axes, list[str]]]:
    """An empty chart in inches, and a list that receives its SVG when the block ends."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        result: list[str] = []
        yield figure.add_subplot(), result
        result.append(_svg(figure))


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # The page scales it: without a fixed size it fits a phone.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)


def titled(svg: str, titles: dict[str, str]) -> str:
    """Give elements a title: id of the element -> text."""
    for name, text in titles.items():
        svg = svg.replace(f'<g id="{name}">', f'<g id="{name}"><title>{escape(text)}</title>', 1)
    return svg


def point(
    axis: Axes, x: float, y: float, *, size: float, color: str, name: str, link: str, **style: Any
) -> None:
    """One point with an id and a link."""
    drawn = axis.scatter([x], [y], s=size, color=color, **style)
    drawn.set_gid(name)
    drawn.set_urls([link])


def spread(values: Sequence[float]) -> float:
    """A margin for values that may all be alike."""
    return 0.08 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 0.05
