"""What the search reads off a build, and where it puts it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from relaxc.compiler import CompileResult
from relaxc.errors import OptionError, OutputError
from relaxc.replacing import replacing
from relaxc.search.journal import Trial


def code_of(built: CompileResult) -> str:
    """Equal for artifacts that differ in nothing but what they are said to be."""
    members = {name: entry["sha256"] for name, entry in built.manifest["members"].items()}
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()


def require_new(trial: Trial, earlier: Iterable[Trial]) -> None:
    """Refuse a trial whose artifact is that of an earlier one: it would be judged by noise.

    Raises:
        OptionError: it is; the message names the other recipe.
    """
    for other in earlier:
        if other.is_ok and other.code == trial.code:
            raise OptionError(f"changes nothing: it is the code of `{other.recipe}`")


def pass_seconds(built: CompileResult) -> dict[str, float]:
    """What every phase of a compilation took, and every pass in place of the phase of passes."""
    phases = {name: s for name, s in built.seconds.items() if name != "passes"}
    passes = {record.name: record.seconds for record in built.passes}
    return {"import": phases.pop("import"), **passes, **phases}


def layers_of(built: CompileResult) -> list[dict[str, Any]]:
    """What quantization did to each layer: how exact and how fast it is, and what was chosen.

    Returns:
        Per layer `nodes`, `sqnr_db` and `cosine` (None where they were not measured), `float_us`
        and `integer_us` (None without a speed gate), `is_integer` and `reason`.
    """
    errors = {error.node: error for error in built.quantized}

    def entry(nodes: tuple[str, ...]) -> dict[str, Any]:
        known = [errors.pop(node) for node in nodes if node in errors]
        worst = min(known, key=lambda error: error.sqnr_db, default=None)
        return {
            "nodes": list(nodes),
            # Of layers that lost nothing it is infinite, which JSON cannot say.
            "sqnr_db": worst.sqnr_db if worst and math.isfinite(worst.sqnr_db) else None,
            "cosine": None if worst is None else worst.cosine,
            "float_us": None,
            "integer_us": None,
            "is_integer": all(error.is_kept for error in known),
            "reason": "" if all(error.is_kept for error in known) else "too inexact on integers",
        }

    found = []
    for layer in built.gate.layers if built.gate else ():
        known = entry(layer.nodes)
        known |= {"float_us": layer.float_s * 1e6, "integer_us": layer.integer_s * 1e6}
        known["is_integer"] = known["is_integer"] and layer.is_kept
        known["reason"] = known["reason"] or layer.reason
        found.append(known)
    return [*found, *(entry((node,)) for node in list(errors))]


def channels_of(built: CompileResult) -> list[dict[str, Any]]:
    """What pruning left of each group of channels: `name`, `before`, `after`."""
    groups = built.pruned.groups if built.pruned else ()
    return [{"name": g.name, "before": g.before, "after": g.after} for g in groups]


def copy_artifact(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with source.open("rb") as read, replacing(target) as written:
            shutil.copyfileobj(read, written)
    except OSError as err:
        raise OutputError(f"cannot write `{target}`: {err.strerror or err}") from err
