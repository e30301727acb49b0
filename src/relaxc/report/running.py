"""What `relaxc run` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from relaxc.report import units
from relaxc.report.tables import table


def as_text(outputs: Mapping[str, np.ndarray], top: int) -> str:
    """The outputs at a glance, and the largest elements of each."""
    rows = [
        (name, f"{a.dtype.name}{units.dims(a.shape)}", *(f"{v:.6g}" for v in _glance(a).values()))
        for name, a in outputs.items()
    ]
    parts = [table(("Output", "Type", "Min", "Max", "Mean"), rows, left=2)]
    if top:
        parts += [_top(name, array, top) for name, array in outputs.items()]
    return "\n\n".join(parts)


def _glance(array: np.ndarray) -> dict[str, float]:
    if array.size == 0:
        return {"min": np.nan, "max": np.nan, "mean": np.nan}
    values = array.astype(np.float64)
    return {"min": values.min(), "max": values.max(), "mean": values.mean()}


def _top(name: str, array: np.ndarray, count: int) -> str:
    rows = [(units.dims(index), f"{value:.6g}") for index, value in _largest(array, count)]
    return table((f"Largest of {name}", "Value"), rows)


def _largest(array: np.ndarray, count: int) -> list[tuple[tuple[int, ...], float]]:
    flat = array.reshape(-1).astype(np.float64)
    order = np.argsort(-flat, kind="stable")[:count]
    places = [tuple(int(i) for i in np.unravel_index(at, array.shape)) for at in order]
    return [(place, float(flat[at])) for place, at in zip(places, order)]


def time_summary(samples_ms: np.ndarray) -> str:
    """The table of `--print-time`, as tvmc prints it."""
    statistics = {
        "mean (ms)": samples_ms.mean(),
        "median (ms)": np.median(samples_ms),
        "max (ms)": samples_ms.max(),
        "min (ms)": samples_ms.min(),
        "std (ms)": samples_ms.std(),
    }
    head = " ".join(f"{name:>12}" for name in statistics)
    row = " ".join(f"{value:12.4f}" for value in statistics.values())
    return f"Execution time summary:\n{head}\n{row}"


def as_json(outputs: Mapping[str, np.ndarray], samples_ms: np.ndarray, top: int) -> dict[str, Any]:
    """The machine-readable form."""
    return {
        "outputs": [
            {
                "name": name,
                "dtype": array.dtype.name,
                "shape": list(array.shape),
                **_glance(array),
                "top": [{"index": list(i), "value": v} for i, v in _largest(array, top)],
            }
            for name, array in outputs.items()
        ],
        "latency_ms": [float(sample) for sample in samples_ms],
    }
