"""What the search reads off a build."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from relaxc.compiler import CompileResult
from relaxc.errors import OptionError
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
