"""The artifact of a model that the host runs in steps: the steps, and the pieces between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from relaxc import cpu
from relaxc.artifact import WEIGHTS, Manifest, pack_weights
from relaxc.errors import OptionError
from relaxc.frontend.importer import ImportedProgram
from relaxc.manifest import Members
from relaxc.options import CompileOptions

_OWN = "lib/model.so"


def require_plain(imported: ImportedProgram, options: CompileOptions) -> None:
    """Refuse what is not done to models that run in steps.

    Raises:
        OptionError: the options ask for it.
    """
    asked = {
        "quantization": options.quantize is not None,
        "pruning": options.prune is not None or options.sparsify is not None,
        "another float type of inputs and outputs": options.io != "model",
        "a GPU": options.target.startswith("cuda"),
    }
    for what, is_asked in asked.items():
        if is_asked:
            raise OptionError(
                f"`{imported.name}` has loops, sequences, strings or random numbers, which the "
                f"host runs in steps; {what} is not supported for such models"
            )


def assemble(
    imported: ImportedProgram, pieces: list[tuple[Manifest, Members]]
) -> tuple[Manifest, Members]:
    """The manifest of a program, but for its header, and the members of the artifact.

    Libraries that all pieces need are stored once.
    """
    members: Members = {}
    described: list[Manifest] = []
    for number, (manifest, own) in enumerate(pieces):
        for name, chunks in own.items():
            is_own = name in (_OWN, WEIGHTS)
            members[f"pieces/{number}/{name}" if is_own else name] = chunks
        described.append(manifest)
    constants: list[dict[str, Any]] = []
    arrays: list[np.ndarray] = []
    for array in imported.constants:
        if array.dtype.kind in "OUS":
            texts = [t.decode() if isinstance(t, bytes) else str(t) for t in array.flat]
            constants.append({"strings": texts, "shape": list(array.shape)})
        else:
            constants.append({"weight": len(arrays)})
            arrays.append(array)
    entries, chunks = pack_weights(arrays)
    if chunks:
        members[WEIGHTS] = chunks
    memories = [manifest["memory"] for manifest in described]
    program = {
        "graph": imported.graph,
        "constants": constants,
        "pieces": [{key: manifest[key] for key in _PIECE} for manifest in described],
    }
    return {
        "inputs": imported.inputs,
        "outputs": imported.outputs,
        "requirements": _requirements(described),
        "layers": [layer for manifest in described for layer in manifest["layers"]],
        "kernels": [kernel for manifest in described for kernel in manifest["kernels"]],
        "weights": entries,
        "memory": {
            "weight_bytes": sum(e["size_bytes"] for e in entries)
            + sum(memory["weight_bytes"] for memory in memories),
            "activation_bytes": max((m["activation_bytes"] for m in memories), default=0),
            "live": [entry for memory in memories for entry in memory["live"]],
        },
        "program": program,
    }, members


# What the runtime must know of a piece.
_PIECE = ("inputs", "outputs", "requirements", "weights", "workspace")


def _requirements(pieces: list[Manifest]) -> dict[str, Any]:
    """What a machine must offer: what any of the pieces needs."""
    if not pieces:
        return {"architecture": cpu.architecture(), "runtime": [], "cpu_features": []}
    needs = [manifest["requirements"] for manifest in pieces]
    runtime = dict.fromkeys(name for need in needs for name in need["runtime"])
    features = {feature for need in needs for feature in need["cpu_features"]}
    return {**needs[0], "runtime": list(runtime), "cpu_features": sorted(features)}
