"""What `relaxc check` says."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from relaxc.report import units
from relaxc.report.tables import table

if TYPE_CHECKING:
    from relaxc.measure.check import CheckResult, LayerAgreement
    from relaxc.measure.compare import Agreement

# Layers of a quantized model that are named.
_WORST = 20
_HEADINGS = ("Output", "Type", "", "Max abs", "Max rel", "Cosine")


def as_text(result: CheckResult) -> str:
    """The table of outputs, the verdict, and where the results part."""
    parts = [table(_HEADINGS, [_row(a) for a in result.outputs], left=3)]
    if result.layers:
        parts.append(_layers(result))
    failed = [a.name for a in result.outputs if not a.is_ok]
    tolerance = result.tolerance
    limits = f"atol {tolerance.atol:g}, rtol {tolerance.rtol:g}, cos {tolerance.cos:g}"
    verdict = f"FAILED: {', '.join(failed)} differ" if failed else "PASSED"
    parts.append(f"{verdict} ({limits}; reference: ONNX Runtime)")
    if result.score is not None:
        parts.append(f"Evaluated: {result.score:.6g}")
    return "\n\n".join(parts)


def _row(a: Agreement) -> tuple[str, ...]:
    verdict = "ok" if a.is_ok else a.note or "differs"
    shown = (f"{a.max_abs:.3g}", f"{a.max_rel:.3g}", f"{a.cosine:.8f}")
    return (a.name, f"{a.dtype}{units.dims(a.shape)}", verdict, *shown)


def _layers(result: CheckResult) -> str:
    if result.is_quantized:
        return _exactness(result)
    first = result.first_divergence
    count = len(result.layers)
    if first is None and result.is_ok:
        return f"All {count} layers agree."
    if first is None:
        return (
            f"All {count} layers agree when each is computed on its own: the difference comes from "
            "fusion; narrow it down with `--disabled-pass`."
        )
    before = [layer for layer in result.layers if layer.is_ok]
    where = result.layers.index(first)
    lines = [
        f"First layer that diverges: {first.layer.op} `{first.layer.node}` "
        f"(number {where + 1} of {count}; {len(before)} layers agree)"
    ]
    lines.append(table(("Result", *_HEADINGS[1:]), [_row(a) for a in first.results], left=3))
    return "\n".join(lines)


def _exactness(result: CheckResult) -> str:
    """The layers that lost most: of integers, all are a little off."""
    rows = [
        (layer.layer.node, layer.layer.op, min(layer.results, key=lambda a: a.sqnr_db))
        for layer in result.layers
        if layer.results
    ]
    rows = sorted(rows, key=lambda row: row[2].sqnr_db)[:_WORST]
    texts = [
        (n, op, f"{a.sqnr_db:.1f}", f"{a.cosine:.6f}", f"{a.max_rel:.3g}") for n, op, a in rows
    ]
    headings = ("Layer", "Operator", "SQNR dB", "Cosine", "Max rel")
    return f"Least exact of {len(result.layers)} layers:\n" + table(headings, texts, left=2)


def as_json(result: CheckResult) -> dict[str, Any]:
    """The machine-readable form."""
    first = result.first_divergence
    return {
        "passed": result.is_ok,
        "reference": "onnxruntime",
        "tolerance": dataclasses.asdict(result.tolerance),
        "outputs": [_agreement(a) for a in result.outputs],
        "layers": [_layer(layer) for layer in result.layers],
        "score": result.score,
        "first_divergence": None if first is None else _layer(first),
        "warnings": list(result.warnings),
    }


def _layer(layer: LayerAgreement) -> dict[str, Any]:
    return {
        "node": layer.layer.node,
        "op": layer.layer.op,
        "ok": layer.is_ok,
        "results": [_agreement(a) for a in layer.results],
    }


def _agreement(a: Agreement) -> dict[str, Any]:
    return {
        "name": a.name,
        "dtype": a.dtype,
        "shape": list(a.shape),
        "max_abs": a.max_abs,
        "max_rel": a.max_rel,
        "cosine": a.cosine,
        "sqnr_db": a.sqnr_db,
        "ok": a.is_ok,
        "note": a.note,
    }
