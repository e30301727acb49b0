"""Load an artifact and run it. Needs NumPy and TVM's FFI library only, neither TVM nor ONNX."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaxc.artifact import read_artifact
from relaxc.errors import ArtifactError, InputError, near_matches
from relaxc.runtime.cuda import parse_device, parts_of
from relaxc.runtime.model import Model
from relaxc.runtime.threads import resolve_threads


def load(
    path: str | os.PathLike[str],
    device: str | None = None,
    threads: int | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Model:
    """Load a compiled artifact.

    Args:
        path: the `.rxc` file.
        device: `cpu`, `cuda`, `cuda:1`, or `cuda:0,1`: the GPUs of a model compiled for several, or
            such that the batch of one compiled for one is divided among; what the artifact is
            compiled for by default.
        threads: threads per run; one per available physical core by default.
        cache_dir: folder for the extracted libraries; the user's cache folder by default.

    Raises:
        ArtifactError: the file is missing, damaged or of a newer schema.
        TargetError: this machine lacks what the artifact needs.
        OptionError: unknown device, one that the artifact is not for, or less than one thread.
    """
    devices = parts_of(device) if device is not None and "," in device else [device]
    for one in devices:
        if one is not None:
            parse_device(one)
    count = resolve_threads(threads)
    try:
        folder = None if cache_dir is None else Path(cache_dir)
        artifact = read_artifact(path)
        # Loaded only where they are needed.
        if "tensor_parallel" in artifact.manifest:
            from relaxc.runtime.divided_model import DividedModel

            return DividedModel(artifact, device, count, folder)
        if "program" in artifact.manifest:
            from relaxc.runtime.programs import load_program

            return load_program(artifact, device, count, folder)
        models = [Model(artifact, one, count, folder) for one in devices]
        if len(models) == 1:
            return models[0]
        from relaxc.runtime.replicas import Replicas

        return Replicas(models)
    except KeyError as err:
        raise ArtifactError(
            f"the manifest of `{path}` lacks {err}; compile the model again with this relaxc"
        ) from err


class InferenceSession:
    """An artifact behind ONNX Runtime's interface, for drop-in use."""

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, device: str | None = None
    ) -> None:
        self.model = load(path, device, threads)

    def run(self, output_names: Sequence[str] | None, feed: Mapping[str, Any]) -> list[Any]:
        """Run on named inputs; return the outputs asked for (all when `output_names` is None)."""
        results = self.model.run(feed)
        for name in output_names or ():
            if name not in results:
                raise InputError(f"unknown output `{name}`{near_matches(name, results)}")
        return [results[name] for name in output_names or results]

    def get_inputs(self) -> list[SessionTensor]:
        """The inputs, with ONNX Runtime's field names."""
        return [
            SessionTensor(i.name, _session_type(i.dtype), list(i.shape)) for i in self.model.inputs
        ]

    def get_outputs(self) -> list[SessionTensor]:
        """The outputs, with ONNX Runtime's field names."""
        return [
            SessionTensor(o.name, _session_type(o.dtype), list(o.shape)) for o in self.model.outputs
        ]


@dataclass(frozen=True)
class SessionTensor:
    """An input or output as ONNX Runtime describes it: `type` reads `tensor(float)`."""

    name: str
    type: str
    shape: list[int | str]


def _session_type(dtype: str) -> str:
    special = {"float32": "float", "float64": "double"}
    return f"tensor({special.get(dtype, dtype)})"
