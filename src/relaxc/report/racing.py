"""What `relaxc bench` says of several artifacts and engines."""

from __future__ import annotations

from typing import Any

import numpy as np

from relaxc.measure.race import Lap, RaceResult
from relaxc.report import units
from relaxc.report.tables import facts, table


def as_text(result: RaceResult) -> str:
    """The circumstances, and a line per contender."""
    machine = result.machine
    shapes = ", ".join(f"{name} {units.dims(shape)}" for name, shape in result.shapes.items())
    reference = result.laps[result.reference]
    header = [
        ("CPU", f"{machine.cpu}, {machine.cores} cores available"),
        ("Threads", f"{result.threads} per inference"),
        ("Streams", f"{result.streams} at a time"),
        ("Inputs", shapes or "none"),
        ("Load average", ", ".join(f"{load:.2f}" for load in machine.load_average)),
        ("Compared with", f"{reference.engine}, {reference.path.name}"),
        ("Versions", ", ".join(dict.fromkeys(_version(lap) for lap in result.laps))),
    ]
    percentiles = [f"{percent:g}%" for percent in result.percentiles]
    headings = ["Engine", "File", "Min ms", "Median ms", *percentiles, "Inf/s", "Load ms"]
    headings += ["Ratio min/med", "Max rel", "Cosine"]
    rows = [_row(lap, reference, result.percentiles) for lap in result.laps]
    return facts(header) + "\n\n" + table(headings, rows, left=2)


def _row(lap: Lap, reference: Lap, percentiles: tuple[float, ...]) -> list[str]:
    times = lap.latencies_ms
    smallest, median = _ratios(lap, reference)
    return [
        lap.engine,
        lap.path.name,
        f"{times.min():.4g}",
        f"{np.median(times):.4g}",
        *(f"{np.percentile(times, percent):.4g}" for percent in percentiles),
        f"{lap.throughput:.4g}",
        f"{lap.load_ms:.3g}",
        f"{smallest:.2f}/{median:.2f}",
        f"{lap.max_rel:.1e}",
        f"{lap.cosine:.6f}",
    ]


def _version(lap: Lap) -> str:
    """An engine and its version, without the precision: `OpenVINO 2026.4.1`."""
    return f"{lap.engine.removesuffix(' f32').removesuffix(' default')} {lap.version}"


def _ratios(lap: Lap, reference: Lap) -> tuple[float, float]:
    """Time relative to the reference's: of the minima, and of the medians."""
    ours, theirs = lap.latencies_ms, reference.latencies_ms
    return float(ours.min() / theirs.min()), float(np.median(ours) / np.median(theirs))


def warnings(result: RaceResult) -> list[str]:
    """Why the numbers deserve little trust."""
    if result.machine.is_busy:
        return ["other work keeps this machine busy; ratios hold, times may not"]
    return []


def as_json(result: RaceResult) -> dict[str, Any]:
    """The machine-readable form; latencies in milliseconds."""
    reference = result.laps[result.reference]
    return {
        "cpu": result.machine.cpu,
        "cores": result.machine.cores,
        "load_average": list(result.machine.load_average),
        "threads": result.threads,
        "streams": result.streams,
        "input_shapes": {name: list(shape) for name, shape in result.shapes.items()},
        "reference": result.reference,
        "contenders": [_lap(lap, reference, result.percentiles) for lap in result.laps],
        "warnings": warnings(result),
    }


def _lap(lap: Lap, reference: Lap, percentiles: tuple[float, ...]) -> dict[str, Any]:
    times = lap.latencies_ms
    smallest, median = _ratios(lap, reference)
    latency = {"min": float(times.min()), "median": float(np.median(times))}
    for percent in percentiles:
        latency[f"percentile({percent:g}%)"] = float(np.percentile(times, percent))
    return {
        "engine": lap.engine,
        "version": lap.version,
        "path": str(lap.path),
        "samples": len(times),
        "latency_ms": latency,
        "throughput_per_s": lap.throughput,
        "load_ms": lap.load_ms,
        "min_ratio": smallest,
        "median_ratio": median,
        "max_rel": lap.max_rel,
        "cosine": lap.cosine,
    }
