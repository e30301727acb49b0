"""Which layers leave out the zeros of their weights, and why others do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Layers that are named; of the others there is a count.
_NAMED = 3
# Blocks of zeros that make a kernel multiply less, but not less than Winograd's method does.
_MANY_BLOCKS = 0.2


def sparse_layers(kernels: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Lines of a summary; none for a model without sparse weights.

    Args:
        kernels: as the manifest lists them.
    """
    layers = [(_name(k), k["sparsity"]) for k in kernels if k["nodes"] and "sparsity" in k]
    used = [
        f"{name} ({_unit(found)}, {found['cost']:.2f} of the dense time)"
        for name, found in layers
        if found["method"] != "dense"
    ]
    few = [f"{name} ({found['zeros']:.0%})" for name, found in layers if _are_scattered(found)]
    slow = [
        f"{name} ({found['zero_blocks']:.0%} of blocks)"
        for name, found in layers
        if found["method"] == "dense" and not _are_scattered(found)
    ]
    entries = [
        ("Zeros left out", used, ""),
        ("Zeros multiplied", few, ", because they are scattered: hardly a block is all zero"),
        ("Zeros multiplied", slow, ", because the dense kernel is estimated to be as fast"),
    ]
    return [(title, _listed(names) + reason) for title, names, reason in entries if names]


def _unit(found: dict[str, Any]) -> str:
    if found["method"] == "blocks":
        return f"{found['zero_blocks']:.0%} of blocks"
    return f"{found['zeros']:.0%} of weights"


def _are_scattered(found: dict[str, Any]) -> bool:
    return bool(found["method"] == "dense" and found["zero_blocks"] < _MANY_BLOCKS)


def _name(kernel: dict[str, Any]) -> str:
    return str(kernel["nodes"][0])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
