"""What is inside of a model or an artifact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaxc.artifact import Manifest, is_artifact, read_artifact
from relaxc.options import Shape


@dataclass(frozen=True)
class Description:
    """What a model takes, gives and computes.

    Attributes:
        path: the file.
        kind: `onnx` or `artifact`.
        inputs: entries of name, dtype and shape.
        outputs: the same.
        operators: operator -> how often; ONNX operators of a model, Relax ones of an artifact.
        layers: one entry per operator: name, op, shape, macs, params, bytes.
        weight_bytes: size of all weights.
        activation_bytes: most intermediate results alive at once, before fusion.
        warnings: oddities of the model.
        manifest: of an artifact; else None.
    """

    path: Path
    kind: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    operators: dict[str, int]
    layers: list[dict[str, Any]]
    weight_bytes: int
    activation_bytes: int
    warnings: tuple[str, ...]
    manifest: Manifest | None

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference."""
        return sum(int(layer["macs"]) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Numbers that were trained, as the layers count them."""
        return sum(int(layer["params"]) for layer in self.layers)

    @property
    def symbols(self) -> list[str]:
        """Names of symbolic dimensions, which count as 1 in every sum."""
        dims = [dim for entry in self.inputs for dim in entry["shape"]]
        return sorted({dim for dim in dims if isinstance(dim, str)})


def describe(path: Path, input_shapes: Mapping[str, Shape] | None = None) -> Description:
    """Describe an artifact or an ONNX model.

    Args:
        path: the file.
        input_shapes: shapes to give to the inputs of a model.

    Raises:
        ArtifactError: the artifact is damaged.
        ModelError: the model is unreadable, invalid or unsupported.
    """
    return _describe_artifact(path) if is_artifact(path) else _describe_model(path, input_shapes)


def _describe_artifact(path: Path) -> Description:
    manifest = read_artifact(path).manifest
    return Description(
        path=path,
        kind="artifact",
        # Where inputs may lie is a matter of the code, not of the model.
        inputs=[{k: v for k, v in e.items() if k != "any_alignment"} for e in manifest["inputs"]],
        outputs=manifest["outputs"],
        operators=_histogram(layer["op"] for layer in manifest["layers"]),
        layers=manifest["layers"],
        weight_bytes=manifest["memory"]["weight_bytes"],
        activation_bytes=manifest["memory"]["activation_bytes"],
        warnings=(),
        manifest=manifest,
    )


def _describe_model(path: Path, input_shapes: Mapping[str, Shape] | None) -> Description:
    from relaxc.frontend.importer import ImportedProgram, import_model
    from relaxc.manifest import describe_inputs, describe_outputs
    from relaxc.passes.analysis.cost import layer_costs
    from relaxc.passes.analysis.memory import peak_activation_bytes, weight_bytes

    imported = import_model(path, input_shapes)
    if isinstance(imported, ImportedProgram):
        mods = [piece.mod for piece in imported.pieces]
        return Description(
            path=path,
            kind="onnx",
            inputs=imported.inputs,
            outputs=imported.outputs,
            operators=_histogram(imported.operators),
            layers=[layer for mod in mods for layer in layer_costs(mod)],
            weight_bytes=sum(weight_bytes(mod) for mod in mods)
            + sum(array.nbytes for array in imported.constants),
            activation_bytes=max((peak_activation_bytes(mod) for mod in mods), default=0),
            warnings=imported.warnings,
            manifest=None,
        )
    return Description(
        path=path,
        kind="onnx",
        inputs=describe_inputs(imported),
        outputs=describe_outputs(imported),
        operators=_histogram(imported.operators),
        layers=layer_costs(imported.mod),
        weight_bytes=weight_bytes(imported.mod),
        activation_bytes=peak_activation_bytes(imported.mod),
        warnings=imported.warnings,
        manifest=None,
    )


def _histogram(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))
