"""What `relaxc bench` says; its last lines keep the form of trtexec, for scripts to parse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from relaxc.measure.bench import BenchResult
from relaxc.report import profiling, units
from relaxc.report.tables import facts
from relaxc.report.target import spelled

_INCLUDED = {
    None: "checks of the inputs, copies of small or misaligned ones, every kernel; not file access",
    True: "checks of the inputs, transfers to the GPU and back, every kernel; not file access",
    False: "checks of the inputs, every kernel; no transfers to or from the GPU; no file access",
}


def as_text(path: Path, digest: str, result: BenchResult) -> str:
    """Header and performance summary."""
    machine, target = result.machine, result.manifest["target"]
    shapes = ", ".join(f"{name} {units.dims(shape)}" for name, shape in result.shapes.items())
    header = [
        ("Artifact", f"{path} (sha256 {digest[:16]})"),
        ("Device", _device(result)),
        ("Target", spelled(target)),
        ("Threads", f"{result.threads} per inference"),
        ("Streams", f"{result.streams} at a time"),
        ("Inputs", shapes or "none"),
        ("Included", _INCLUDED[result.transfers]),
        ("Load average", ", ".join(f"{load:.2f}" for load in machine.load_average)),
    ]
    lines = [facts(header), "", "=== Performance summary ==="]
    lines.append(f"Throughput: {result.throughput:.6g} inf/s")
    statistics = _latency(result)
    lines.append(
        "Latency: " + ", ".join(f"{name} = {value:.6g} ms" for name, value in statistics.items())
    )
    deviation = float(result.latencies_ms.std())
    lines.append(
        f"Deviation: std = {deviation:.6g} ms, coefficient of variation = {result.variation:.2%}"
    )
    lines.append(f"Samples: {len(result.latencies_ms)} in {result.wall_s:.4g} s")
    lines.append(f"Load time: {result.load_ms:.6g} ms")
    lines.append(f"First inference: {result.first_ms:.6g} ms")
    lines.append(f"Peak memory: {units.size(result.peak_memory_bytes)}")
    if result.profile is not None:
        lines += ["", profiling.as_text(result.profile, result.roofline)]
    return "\n".join(lines)


def _device(result: BenchResult) -> str:
    machine = result.machine
    cpu = f"{machine.cpu}, {machine.cores} cores available"
    return f"cpu: {cpu}" if result.device == "cpu" else f"{result.device}, beside {cpu}"


def _latency(result: BenchResult) -> dict[str, float]:
    samples = result.latencies_ms
    named = {
        "min": float(samples.min()),
        "max": float(samples.max()),
        "mean": float(samples.mean()),
        "median": float(np.median(samples)),
    }
    for percent in result.percentiles:
        named[f"percentile({percent:g}%)"] = float(np.percentile(samples, percent))
    return named


def warnings(result: BenchResult) -> list[str]:
    """Why the numbers deserve little trust, one sentence each."""
    found = []
    if result.machine.is_busy:
        found.append(
            "other work keeps this machine busy; the measurements may be noisy, "
            "repeat them when it is idle"
        )
    if result.is_unsteady:
        found.append(
            "the latency varies by more than 10 %; compare medians, "
            "or measure longer with --duration"
        )
    if result.profile is not None and result.roofline is None:
        found.append("there is no C++ compiler to measure this machine's peaks with")
    return found


def as_json(path: Path, digest: str, result: BenchResult) -> dict[str, Any]:
    """The machine-readable form; latencies in milliseconds."""
    manifest = result.manifest
    return {
        "artifact": str(path),
        "artifact_sha256": digest,
        "model": manifest["model"],
        "target": manifest["target"],
        "device": result.device,
        "transfers_included": result.transfers,
        "cpu": result.machine.cpu,
        "cores": result.machine.cores,
        "load_average": list(result.machine.load_average),
        "threads": result.threads,
        "streams": result.streams,
        "included": _INCLUDED[result.transfers],
        "input_shapes": {name: list(shape) for name, shape in result.shapes.items()},
        "samples": len(result.latencies_ms),
        "wall_s": result.wall_s,
        "throughput_per_s": result.throughput,
        "latency_ms": {
            **_latency(result),
            "std": float(result.latencies_ms.std()),
            "variation": result.variation,
        },
        "load_ms": result.load_ms,
        "first_inference_ms": result.first_ms,
        "peak_memory_bytes": result.peak_memory_bytes,
        "is_noisy": result.is_noisy,
        "warnings": warnings(result),
        "profile": None
        if result.profile is None
        else profiling.as_json(result.profile, result.roofline),
    }
