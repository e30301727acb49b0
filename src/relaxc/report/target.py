"""How reports spell what an artifact is compiled for."""

from __future__ import annotations

from typing import Any


def spelled(target: dict[str, Any]) -> str:
    """The manifest's target, as `--target` has it, and the kind of system."""
    if target["kind"] == "cuda":
        host = target["host"]
        return f"cuda -arch={target['arch']} -mcpu={host['mcpu']} ({host['mtriple']})"
    return f"{target['kind']} -mcpu={target['mcpu']} ({target['mtriple']})"
