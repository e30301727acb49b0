"""What `relaxc cache` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relaxc.report import units
from relaxc.report.tables import facts, table
from relaxc.tuning.maintain import Known, Reason


def listing(found: Sequence[Known]) -> str:
    """Kernels, the greatest gains first."""
    if not found:
        return "No kernel has been tuned."
    rows = [
        (
            kernel.task,
            _machine(kernel.context),
            f"{1 / kernel.ratio:.2f}",
            str(kernel.trials),
            str(kernel.failed),
            "" if kernel.is_judged else "unfinished",
        )
        for kernel in sorted(found, key=lambda k: k.ratio)
    ]
    return table(("Kernel", "For", "x", "Trials", "Failed", ""), rows, left=2)


def _machine(context: Mapping[str, Any]) -> str:
    """For whom a kernel was tuned: a CPU, or a GPU's architecture."""
    if "mcpu" in context:
        return f"{context['mcpu']}, {context.get('threads')} threads"
    return str(context.get("arch"))


def numbers(stats: Mapping[str, Any]) -> str:
    """What a file holds."""
    outcomes = ", ".join(f"{n} {name}" for name, n in stats["outcomes"].items()) or "none"
    machines = ", ".join(f"{n} for {name}" for name, n in stats["machines"].items()) or "none"
    return facts(
        [
            ("File", f"{stats['file']} ({units.size(stats['bytes'])})"),
            (
                "Records",
                f"{stats['records']}; {stats['damaged']} damaged, {stats['unknown']} unknown lines",
            ),
            ("Kernels", f"{machines}; {stats['faster']} faster than untuned"),
            ("Trials", f"{outcomes}; {stats['measured_s']:.0f} s"),
        ]
    )


def reasons(found: Sequence[Reason]) -> str:
    """Kernels of a model, and what the records have for them."""
    if not found:
        return "Tuning has no say in any kernel of this model."
    hits = sum(reason.is_hit for reason in found)
    rows = [(r.task, "found" if r.is_hit else "missing", r.text) for r in found]
    return f"{hits} of {len(found)} kernels are known.\n\n" + table(
        ("Kernel", "", "Why"), rows, left=3
    )
