"""A report as one HTML file: what was chosen, why, and where the time goes.

It shows without JavaScript and without a network; what charts show is in tables, too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaxc.artifact import Manifest
from relaxc.errors import OutputError, TargetError
from relaxc.measure.machine import Machine
from relaxc.measure.profile import Profile
from relaxc.measure.roofline import Roofline
from relaxc.replacing import replacing
from relaxc.report import units
from relaxc.report.profiling import of_peak
from relaxc.report.target import spelled
from relaxc.search.result import Result

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_KERNELS = 40


@dataclass(frozen=True)
class Build:
    """An artifact in a report.

    Attributes:
        name: what the reader calls it.
        size_bytes: of the file.
        manifest: of the artifact.
        profile: where its time goes.
        passes: seconds of every pass; empty where they are not known.
    """

    name: str
    size_bytes: int
    manifest: Manifest
    profile: Profile
    passes: dict[str, float]


def can_report() -> bool:
    """Whether the packages that reports need are installed."""
    return all(importlib.util.find_spec(name) for name in ("jinja2", "matplotlib"))


def write_report(
    path: Path,
    title: str,
    builds: Sequence[Build],
    machine: Machine,
    roofline: Roofline | None,
    result: Result | None = None,
) -> None:
    """Write a report.

    Args:
        path: the HTML file; an existing one is replaced.
        title: the model's name.
        builds: the first is the one that others are compared with.
        machine: where they were measured.
        roofline: what that machine can do.
        result: of the search that made them.

    Raises:
        TargetError: jinja2 or matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    if not can_report():
        raise TargetError('reports need matplotlib and jinja2; run `pip install "relaxc[report]"`')
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(**_contents(title, builds, machine, roofline, result))
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as err:
        raise OutputError(f"cannot write `{path}`: {err.strerror or err}") from err


def _contents(
    title: str,
    builds: Sequence[Build],
    machine: Machine,
    roofline: Roofline | None,
    result: Result | None,
) -> dict[str, Any]:
    from markupsafe import Markup

    from relaxc.report.html import layers, timing
    from relaxc.report.html.pareto import pareto_chart

    timings = [timing.Timing(build.name, build.profile) for build in builds]
    last = builds[-1]
    live = last.manifest["memory"].get("live", [])
    names, sizes = [name for name, _ in live], [size for _, size in live]
    rounded = None if result is None else layers.quantized_trial(result)
    quantized = () if rounded is None else rounded.layers
    channels = () if result is None else result.best.channels
    charts = {
        "exactness": layers.exactness_chart(quantized),
        "channels": layers.channels_chart(channels),
        "pareto": None if result is None else pareto_chart(result),
        "waterfall": timing.waterfall_chart(timings),
        "roofline": None if roofline is None else timing.roofline_chart(timings, roofline),
        "memory": timing.memory_chart(names, sizes) if sizes else None,
        "passes": timing.passes_chart(last.passes) if last.passes else None,
    }
    return {
        "title": title,
        "cards": _cards(builds, result),
        "charts": {name: svg and Markup(svg) for name, svg in charts.items()},
        "trials": [] if result is None else [_trial(trial, result) for trial in result.trials],
        "result": result,
        "rounded": "" if rounded is None else str(rounded.recipe),
        "layers": layers.layer_rows(quantized),
        "channels": channels,
        "builds": [_build(build, roofline) for build in builds],
        "live": [(name, units.size(size)) for name, size in live],
        "passes": [(name, f"{seconds:.3f}") for name, seconds in last.passes.items()],
        "environment": _environment(last, machine),
    }


def _cards(builds: Sequence[Build], result: Result | None) -> list[tuple[str, str, str]]:
    """Heading, value and remark."""
    first, last = builds[0], builds[-1]
    cards = []
    if result is not None:
        best = result.best
        met = "the goal is met" if result.meets_goal else "GOAL NOT MET, this is the closest"
        cards.append(("Recipe", str(best.recipe), met))
        peer = result.onnxruntime_ratio
        against = f"{1 / (best.ratio or 1):.2f}x the float32 build's speed"
        if peer is not None:
            cards.append(("Beside ONNX Runtime", f"{1 / peer:.2f}x faster", against))
        where = "on held-out data" if result.is_split else "on the same data"
        cards.append(
            (
                f"Loss of {result.metric}",
                f"{result.held_out_drop:.4g}",
                f"{result.held_out_base:.5g} to {result.held_out_score:.5g} {where}; "
                f"allowed {result.goal.max_drop}",
            )
        )
    cards.append(
        _change("Latency", [b.profile.min_s * 1e3 for b in builds], "{:.4g} ms", "fastest")
    )
    cards.append(
        _change("File", [b.size_bytes / 1e6 for b in builds], "{:.3g} MB", "of the artifact")
    )
    weights = [b.manifest["memory"]["weight_bytes"] / 1e6 for b in (first, last)]
    cards.append(_change("Weights", weights, "{:.3g} MB", "in memory"))
    return cards


def _change(heading: str, values: Sequence[float], form: str, remark: str) -> tuple[str, str, str]:
    before, after = values[0], values[-1]
    if len(values) == 1 or not before:
        return heading, form.format(after), remark
    return (
        heading,
        form.format(after),
        f"{remark}; {form.format(before)} before, {after / before:.2f}x",
    )


def _trial(trial: Any, result: Result) -> dict[str, str]:
    import yaml

    mark = "front" if trial in result.front else ""
    return {
        "number": str(trial.number),
        "recipe": str(trial.recipe),
        "yaml": yaml.safe_dump(trial.recipe.as_dict(), sort_keys=False),
        "mark": "chosen" if trial.number == result.best.number else mark,
        "score": "" if trial.score is None else f"{trial.score:.6g}",
        "drop": "" if trial.score is None else f"{result.drop(trial):.3g}",
        "latency": "" if trial.latency_ms is None else f"{trial.latency_ms:.4g}",
        "ratio": "" if trial.ratio is None else f"{trial.ratio:.2f}",
        "size": "" if trial.size_bytes is None else units.size(trial.size_bytes),
        "seconds": f"{trial.seconds:.1f}",
        "error": trial.error,
    }


def _build(build: Build, roofline: Roofline | None) -> dict[str, Any]:
    total = build.profile.sum_s
    costly = sorted(build.profile.kernels, key=lambda kernel: -kernel.min_s)[:_KERNELS]
    rows = []
    for kernel in costly:
        share = None if roofline is None else of_peak(kernel, roofline)
        rows.append(
            {
                "nodes": " + ".join(kernel.nodes) or "(layout)",
                "name": kernel.name,
                "us": f"{kernel.min_s * 1e6:.1f}",
                "share": f"{kernel.min_s / total:.1%}" if total else "",
                "gflops": f"{kernel.flops / kernel.min_s / 1e9:.1f}" if kernel.flops else "",
                "gbs": f"{kernel.bytes / kernel.min_s / 1e9:.1f}" if kernel.bytes else "",
                "peak": "" if share is None else f"{share:.0%}",
            }
        )
    return {
        "name": build.name,
        "ms": f"{build.profile.min_s * 1e3:.4g}",
        "count": len(build.profile.kernels),
        "kernels": rows,
    }


def _environment(build: Build, machine: Machine) -> list[tuple[str, str]]:
    manifest = build.manifest
    model = manifest["model"]
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    return [
        ("Model", f"{model['name']}, opset {model['opset']}, SHA-256 {model['sha256']}"),
        ("Inputs", ", ".join(units.tensor(entry) for entry in manifest["inputs"])),
        ("Outputs", ", ".join(units.tensor(entry) for entry in manifest["outputs"])),
        ("Target", spelled(manifest["target"])),
        ("CPU", f"{machine.cpu}, {machine.cores} cores"),
        ("Load average", ", ".join(f"{load:.2f}" for load in machine.load_average)),
        ("Versions", versions),
        ("Passes", ", ".join(manifest["passes"])),
    ]
