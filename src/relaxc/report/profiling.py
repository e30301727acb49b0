"""What `relaxc bench --profile` says."""

from __future__ import annotations

from typing import Any

from relaxc.measure.profile import KernelTime, Profile
from relaxc.measure.roofline import Roofline
from relaxc.report.inspecting import roofline_text
from relaxc.report.tables import table

_RATES = ("Calls", "us", "Share", "GFLOP/s", "GB/s", "Of peak")
_SHOWN = 30


def as_text(profile: Profile, roofline: Roofline | None) -> str:
    """Kernels of a kind together, then the costliest ones alone, with the nodes they compute.

    Args:
        profile: what was measured.
        roofline: this machine's peaks; leaves out the last column when None.
    """
    total = profile.sum_s
    heads = _RATES if roofline else _RATES[:-1]
    kinds = [(k.name, *_rates(k, total, roofline)) for k in profile.by_algorithm()]
    kinds.append((profile.runtime.name, *_rates(profile.runtime, total, roofline)))
    costly = sorted(profile.kernels, key=lambda kernel: -kernel.min_s)[:_SHOWN]
    alone = [(k.name, _nodes(k.nodes), *_rates(k, total, roofline)) for k in costly]
    title = f"Nodes (the costliest {len(alone)} of {len(profile.kernels)} kernels)"
    parts = [
        f"=== Profile: every part at its fastest in {profile.runs} inferences ===",
        table(("Kind of kernel", *heads), kinds),
        table(("Kernel", title, *heads), alone, left=2),
    ]
    if roofline is not None:
        parts.append(roofline_text(roofline))
    return "\n\n".join(parts)


def _rates(kernel: KernelTime, total: float, roofline: Roofline | None) -> tuple[str, ...]:
    cells = (
        str(kernel.calls),
        f"{kernel.min_s * 1e6:.1f}",
        f"{kernel.min_s / total:.1%}" if total else "",
        f"{_rate(kernel.flops, kernel.min_s):.1f}" if kernel.flops else "",
        f"{_rate(kernel.bytes, kernel.min_s):.1f}" if kernel.bytes else "",
    )
    if roofline is None:
        return cells
    share = of_peak(kernel, roofline)
    return (*cells, "" if share is None else f"{share:.0%}")


def _rate(amount: int | None, seconds: float) -> float:
    """Billions per second."""
    return (amount or 0) / seconds / 1e9 if seconds else 0.0


def of_peak(kernel: KernelTime, roofline: Roofline) -> float | None:
    """The least time that a kernel's arithmetic and traffic take, relative to the time it took."""
    if not kernel.bytes or kernel.flops is None or not kernel.min_s:
        return None
    # Traffic is per call: whether it fits a cache must not depend on how many calls are summed.
    calls = max(kernel.calls, 1)
    least = roofline.seconds(kernel.flops / calls, kernel.bytes / calls, kernel.dtype) * calls
    return least / kernel.min_s


def _nodes(nodes: tuple[str, ...]) -> str:
    if len(nodes) <= 3:
        return " + ".join(nodes)
    return f"{nodes[0]} ... {nodes[-1]} ({len(nodes)} nodes)"


def as_json(profile: Profile, roofline: Roofline | None) -> dict[str, Any]:
    """The machine-readable form; times in microseconds."""
    return {
        "runs": profile.runs,
        "min_us": profile.min_s * 1e6,
        "median_us": profile.median_s * 1e6,
        "kernels": [_entry(kernel, profile, roofline) for kernel in profile.kernels],
        "runtime": _entry(profile.runtime, profile, roofline),
        "roofline": None
        if roofline is None
        else {
            "threads": roofline.threads,
            "operations_per_s": dict(roofline.operations_per_s),
            "bandwidths": [
                {"working_set_bytes": limit, "bytes_per_s": rate}
                for limit, rate in roofline.bandwidths
            ],
        },
    }


def _entry(kernel: KernelTime, profile: Profile, roofline: Roofline | None) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "nodes": list(kernel.nodes),
        "calls": kernel.calls,
        "min_us": kernel.min_s * 1e6,
        "median_us": kernel.median_s * 1e6,
        "share": kernel.min_s / profile.sum_s if profile.sum_s else 0.0,
        "flops": kernel.flops,
        "bytes": kernel.bytes,
        "dtype": kernel.dtype,
        "of_peak": None if roofline is None else of_peak(kernel, roofline),
    }
