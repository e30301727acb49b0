"""What `relaxc inspect` says."""

from __future__ import annotations

from typing import Any

from relaxc.artifact import Manifest
from relaxc.describe import Description
from relaxc.measure.prediction import predicted_by_dtype
from relaxc.measure.roofline import Roofline
from relaxc.report import units
from relaxc.report.tables import facts, table
from relaxc.report.target import spelled


def as_text(described: Description, roofline: Roofline | None, limit: int | None) -> str:
    """Summary, operators and layers.

    Args:
        described: what was found.
        roofline: this machine's bounds; leaves out the estimates when None.
        limit: at most so many layers, the costliest first; all in order when None.
    """
    parts = [
        _summary(described, roofline),
        _operators(described),
        _layers(described, roofline, limit),
    ]
    if described.manifest is not None:
        parts.insert(1, _manifest(described.manifest))
    return "\n\n".join(parts)


def _summary(described: Description, roofline: Roofline | None) -> str:
    predicted = {} if roofline is None else predicted_by_dtype(described.layers, roofline)
    times = ", ".join(f"{units.seconds(took)} {dtype}" for dtype, took in predicted.items())
    note = ""
    if described.symbols:
        note = f" (counting {', '.join(described.symbols)} as 1; fix with --input-shapes)"
    return facts(
        [
            ("File", f"{described.path} ({units.size(described.path.stat().st_size)})"),
            *(("Input", units.tensor(entry)) for entry in described.inputs),
            *(("Output", units.tensor(entry)) for entry in described.outputs),
            ("Parameters", units.count(described.parameters)),
            ("MACs", units.count(described.macs) + note),
            ("Weights", units.size(described.weight_bytes)),
            ("Activations", f"{units.size(described.activation_bytes)} at most, before fusion"),
            *([("Predicted", f"{times}, at this machine's peaks")] if times else []),
        ]
    )


def _manifest(manifest: Manifest) -> str:
    model, target, versions = manifest["model"], manifest["target"], manifest["versions"]
    needs = manifest["requirements"]
    members = [
        (name, units.size(member["size_bytes"]), member["sha256"][:16])
        for name, member in manifest["members"].items()
    ]
    summary = facts(
        [
            ("Model", f"{model['name']} (opset {model['opset']}, sha256 {model['sha256'][:16]})"),
            ("Target", spelled(target)),
            ("CPU features", ", ".join(needs["cpu_features"]) or "none beyond the base"),
            ("Made by", ", ".join(f"{name} {version}" for name, version in versions.items())),
            ("Passes", ", ".join(manifest["passes"])),
        ]
    )
    return summary + "\n\n" + table(("Member", "Size", "SHA-256"), members)


def _operators(described: Description) -> str:
    rows = [(name, str(number)) for name, number in described.operators.items()]
    return table(("Operator", "count"), rows)


def _layers(described: Description, roofline: Roofline | None, limit: int | None) -> str:
    columns = ["Layer", "Operator", "Output", "MACs", "Params", "Traffic"]
    if roofline is not None:
        columns += ["At least", "Bound"]
    layers = described.layers
    if limit is not None:
        layers = sorted(layers, key=lambda layer: (-layer["macs"], -layer["bytes"]))[:limit]
    rows = [_layer(layer, roofline) for layer in layers]
    drawn = table(columns, rows, left=3)
    if roofline is None:
        return drawn
    return f"{drawn}\n{roofline_text(roofline)}"


def roofline_text(roofline: Roofline) -> str:
    """One line on what this machine can do at most."""
    peaks = ", ".join(
        f"{rate / 1e9:.0f} {'GFLOP/s' if 'float' in dtype else 'GOP/s'} {dtype}"
        for dtype, rate in roofline.operations_per_s.items()
    )
    rates = "/".join(f"{rate / 1e9:.0f}" for _, rate in roofline.bandwidths)
    return (
        f"Peaks of this machine with {roofline.threads} threads, measured: {peaks}; "
        f"{rates} GB/s in L2, last-level cache, memory"
    )


def _layer(layer: dict[str, Any], roofline: Roofline | None) -> tuple[str, ...]:
    cells = (
        layer["name"],
        layer["op"],
        units.dims(layer["shape"]),
        units.count(layer["macs"]) if layer["macs"] else "",
        units.count(layer["params"]) if layer["params"] else "",
        units.size(layer["bytes"]),
    )
    if roofline is None:
        return cells
    flops = 2 * layer["macs"]
    least = roofline.seconds(flops, layer["bytes"])
    return (*cells, f"{least * 1e6:.1f} us", roofline.bound(flops, layer["bytes"]))


def as_json(described: Description, roofline: Roofline | None) -> dict[str, Any]:
    """The machine-readable form."""
    layers = described.layers
    if roofline is not None:
        layers = [
            {
                **layer,
                "roofline_us": roofline.seconds(2 * layer["macs"], layer["bytes"]) * 1e6,
                "bound": roofline.bound(2 * layer["macs"], layer["bytes"]),
            }
            for layer in layers
        ]
    return {
        "path": str(described.path),
        "kind": described.kind,
        "inputs": described.inputs,
        "outputs": described.outputs,
        "operators": described.operators,
        "parameters": described.parameters,
        "macs": described.macs,
        "weight_bytes": described.weight_bytes,
        "activation_bytes": described.activation_bytes,
        "symbols": described.symbols,
        "predicted_seconds": (
            {} if roofline is None else predicted_by_dtype(described.layers, roofline)
        ),
        "layers": layers,
        "warnings": list(described.warnings),
        "manifest": described.manifest,
    }
