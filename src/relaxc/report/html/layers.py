"""What each layer lost and gained: exactness on integers, speed either way, channels left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relaxc.report.html.charts import BLUE, GREY, ORANGE, axes, titled
from relaxc.search.journal import Trial
from relaxc.search.result import Result

_LABEL = 38
# More rows than this are read in the table.
_SHOWN = 60


def quantized_trial(result: Result) -> Trial | None:
    """The chosen trial if it computes on integers, else the quantized one that loses least."""
    if result.best.layers:
        return result.best
    others = [trial for trial in result.trials if trial.is_ok and trial.layers]
    return min(others, key=result.drop, default=None)


def exactness_chart(layers: Sequence[Mapping[str, Any]]) -> str | None:
    """Signal to noise of every layer that was measured; None where none was."""
    rows = [layer for layer in layers if layer["sqnr_db"] is not None]
    rows = sorted(rows, key=lambda layer: float(layer["sqnr_db"]))[:_SHOWN]
    if not rows:
        return None
    titles = {}
    with axes(8, 1.2 + 0.24 * len(rows)) as (axis, svg):
        for place, layer in enumerate(rows):
            color = BLUE if layer["is_integer"] else GREY
            (bar,) = axis.barh(place, layer["sqnr_db"], color=color, height=0.8)
            bar.set_gid(f"exactness-{place}")
            kind = "integer" if layer["is_integer"] else "float"
            titles[f"exactness-{place}"] = f"{_name(layer)}: {layer['sqnr_db']:.1f} dB, {kind}"
        axis.set_yticks(range(len(rows)), [_name(layer, _LABEL) for layer in rows])
        axis.invert_yaxis()
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel("signal to quantization noise in dB (more is better)")
    return titled(svg[0], titles)


def channels_chart(groups: Sequence[Mapping[str, Any]]) -> str | None:
    """Channels before and after pruning; None where nothing was pruned."""
    rows = list(groups)[:_SHOWN]
    if not rows:
        return None
    titles = {}
    with axes(8, 1.2 + 0.24 * len(rows)) as (axis, svg):
        for place, group in enumerate(rows):
            axis.barh(place, group["before"], color=GREY, alpha=0.5, height=0.8)
            (bar,) = axis.barh(place, group["after"], color=ORANGE, height=0.8)
            bar.set_gid(f"channels-{place}")
            titles[f"channels-{place}"] = (
                f"{group['name']}: {group['after']} of {group['before']} channels"
            )
        axis.set_yticks(range(len(rows)), [_shortened(str(g["name"])) for g in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel("channels that are left, of those before")
    return titled(svg[0], titles)


def layer_rows(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Nodes, signal to noise, cosine, microseconds either way, and what was chosen, as texts."""
    return [
        (
            _name(layer),
            _number(layer["sqnr_db"], ".1f"),
            _number(layer["cosine"], ".6f"),
            _number(layer["float_us"], ".1f"),
            _number(layer["integer_us"], ".1f"),
            "integer" if layer["is_integer"] else "float",
            layer["reason"],
        )
        for layer in layers
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _name(layer: Mapping[str, Any], limit: int | None = None) -> str:
    name = " + ".join(layer["nodes"])
    return name if limit is None else _shortened(name)


def _shortened(name: str) -> str:
    return name if len(name) <= _LABEL else "…" + name[1 - _LABEL :]
