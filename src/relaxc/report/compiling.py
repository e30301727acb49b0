"""What `relaxc compile` says."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from relaxc.report import units
from relaxc.report.sparsity import sparse_layers
from relaxc.report.tables import facts, table
from relaxc.report.target import spelled

if TYPE_CHECKING:
    from relaxc.artifact import Manifest
    from relaxc.compiler import CompileResult
    from relaxc.gate.speed_gate import GateReport
    from relaxc.passes.prune.prune_channels import PruneReport
    from relaxc.passes.quantize.layer_errors import LayerError

# Layers that the summary names.
_WORST = 3


def as_text(result: CompileResult) -> str:
    """The summary of a compilation."""
    manifest = result.manifest
    phases = ", ".join(f"{name} {units.seconds(took)}" for name, took in result.seconds.items())
    total = units.seconds(sum(result.seconds.values()))
    weights = units.size(manifest["memory"]["weight_bytes"])
    entries = [
        ("Artifact", f"{result.path} ({units.size(_size(result))}, {weights} of it weights)"),
        ("Target", spelled(manifest["target"])),
        *(("Input", units.tensor(entry)) for entry in manifest["inputs"]),
        *(("Output", units.tensor(entry)) for entry in manifest["outputs"]),
        *pruned_facts(result.pruned),
        *sparse_layers(manifest["kernels"]),
        *eight_bits(manifest),
        *_gated(result),
        *_quantized(result),
        ("Compiled in", f"{total} ({phases})"),
    ]
    return facts(entries)


def pruned_facts(report: PruneReport | None) -> list[tuple[str, str]]:
    """What pruning saved, for a summary."""
    if report is None:
        return []
    (macs, fewer), (params, less) = report.macs, report.params
    touched = sum(g.after < g.before for g in report.groups)
    shares = f"{_less(macs, fewer)} MACs and {_less(params, less)} parameters less"
    if report.latency is not None:
        before, after = report.latency
        shares += f", kernels {units.seconds(before)} to {units.seconds(after)} by their table"
    return [("Pruned", f"{shares}, in {touched} of {len(report.groups)} groups of channels")]


def eight_bits(manifest: Manifest) -> list[tuple[str, str]]:
    """Which products are computed on floats of eight bits, if that was asked for."""
    if manifest["options"]["precision"] != "float8":
        return []
    layers = [k for k in manifest["kernels"] if k["nodes"] and k["flops"]]
    others = [str(k["nodes"][0]) for k in layers if k["dtype"] != "float8"]
    text = f"{len(layers) - len(others)} of {len(layers)} layers multiply floats of eight bits"
    if others:
        more = f" and {len(others) - _WORST} more" if len(others) > _WORST else ""
        text += f"; in float16: {', '.join(others[:_WORST])}{more}"
    return [("Precision", text)]


def _gated(result: CompileResult) -> list[tuple[str, str]]:
    gate = result.gate
    if gate is None:
        return []
    kept = sum(layer.is_kept for layer in gate.layers)
    text = (
        f"{kept} of {len(gate.layers)} layers on integers; all kernels take "
        f"{gate.chosen_s * 1e3:.2f} ms, in float {gate.float_s * 1e3:.2f} ms"
    )
    if not gate.is_steady:
        text += "; other work kept this machine busy: times are not kept"
    return [("Speed gate", text), *_reverted(gate)]


def _quantized(result: CompileResult) -> list[tuple[str, str]]:
    """The layers that rounding hurts most, and those that stay float for it."""
    layers = sorted(result.quantized, key=lambda error: error.sqnr_db)
    inexact = [layer for layer in layers if not layer.is_kept]
    reasons: dict[str, list[str]] = {}
    for node, reason in result.unquantized:
        reasons.setdefault(reason, []).append(node)
    entries = [("Stay float", f"{', '.join(nodes)}: {why}") for why, nodes in reasons.items()]
    if inexact:
        entries.append(("Stay float", f"{_listed(inexact)}: too inexact on integers"))
    worst = [layer for layer in layers if layer.is_kept][:_WORST]
    if worst:
        entries.append(("Least exact", f"{_listed(worst)} (signal to noise)"))
    return [*entries, *_gained(result)]


def _gained(result: CompileResult) -> list[tuple[str, str]]:
    """What leaving layers float would buy."""
    if not result.gains:
        return []
    first, *others = result.gains
    texts = [f"{first.sqnr_db:.1f} dB as it is"]
    texts += [
        f"{gain.sqnr_db:.1f} dB without {gain.nodes[0]}"
        + (f" and {len(gain.nodes) - 1} more" if len(gain.nodes) > 1 else "")
        for gain in others
    ]
    return [("Outputs", ", ".join(texts) + " (`--exclude`)")]


def _listed(layers: list[LayerError]) -> str:
    return ", ".join(f"{layer.node} {layer.sqnr_db:.0f} dB" for layer in layers)


def _reverted(gate: GateReport) -> list[tuple[str, str]]:
    """Why which layers stay float."""
    reasons: dict[str, list[str]] = {}
    for layer in gate.layers:
        if not layer.is_kept:
            reasons.setdefault(layer.reason, []).extend(layer.nodes)
    return [("Stay float", f"{', '.join(nodes)}: {reason}") for reason, nodes in reasons.items()]


def _less(before: int, after: int) -> str:
    return f"{1 - after / max(1, before):.0%}"


def pass_times(result: CompileResult) -> str:
    """The table of `--print-pass-times`."""
    rows = [
        (record.name, f"{record.seconds * 1e3:.1f}", "yes" if record.changed else "")
        for record in result.passes
    ]
    return table(("Pass", "ms", "changed"), rows)


def as_json(result: CompileResult) -> dict[str, Any]:
    """The machine-readable form."""
    return {
        "artifact": str(result.path),
        "size_bytes": _size(result),
        "seconds": result.seconds,
        "passes": [
            {"name": r.name, "seconds": r.seconds, "changed": r.changed} for r in result.passes
        ],
        "warnings": list(result.warnings),
        "pruned": None if result.pruned is None else pruning_as_json(result.pruned),
        "speed_gate": None if result.gate is None else asdict(result.gate),
        "quantized": [
            {"node": e.node, "sqnr_db": e.sqnr_db, "cosine": e.cosine, "is_kept": e.is_kept}
            for e in sorted(result.quantized, key=lambda error: error.sqnr_db)
        ],
        "ranges": [asdict(entry) for entry in result.ranges],
        "exclusions": [asdict(entry) for entry in result.gains],
        "unquantized": [{"node": node, "reason": why} for node, why in result.unquantized],
        "manifest": result.manifest,
    }


def pruning_as_json(report: PruneReport) -> dict[str, Any]:
    """What pruning did, for documents."""
    return {
        "macs": {"before": report.macs[0], "after": report.macs[1]},
        "params": {"before": report.params[0], "after": report.params[1]},
        "latency_s": report.latency and {"before": report.latency[0], "after": report.latency[1]},
        "groups": [asdict(group) for group in report.groups],
        "layers": [asdict(layer) for layer in report.layers],
    }


def _size(result: CompileResult) -> int:
    return result.path.stat().st_size
