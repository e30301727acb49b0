"""What `relaxc export` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relaxc.report import units
from relaxc.report.compiling import pruned_facts, pruning_as_json
from relaxc.report.tables import facts

if TYPE_CHECKING:
    from relaxc.exporting import ExportResult


def as_text(result: ExportResult) -> str:
    """The summary of an export."""
    before, after = result.weight_bytes
    zeros = f", {result.zeros:.0%} zeros" if result.zeros >= 0.01 else ""
    return facts(
        [
            ("Model", f"{result.path} ({result.nodes} nodes, opset {result.opset})"),
            ("Weights", f"{units.size(after)} instead of {units.size(before)}{zeros}"),
            *pruned_facts(result.pruned),
        ]
    )


def as_json(result: ExportResult) -> dict[str, Any]:
    """The machine-readable form."""
    before, after = result.weight_bytes
    return {
        "model": str(result.path),
        "nodes": result.nodes,
        "opset": result.opset,
        "weight_bytes": {"before": before, "after": after},
        "zeros": result.zeros,
        "pruned": None if result.pruned is None else pruning_as_json(result.pruned),
        "warnings": list(result.warnings),
    }
