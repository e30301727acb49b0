"""An artifact whose layers are divided among GPUs, loaded on as many."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relaxc.artifact import Artifact, numpy_dtype
from relaxc.errors import OptionError
from relaxc.runtime import ffi
from relaxc.runtime.cuda import Gpu, parse_device, parts_of
from relaxc.runtime.divided import DividedEngine, require_devices
from relaxc.runtime.library import load_model, require_this_machine
from relaxc.runtime.model import Model, tensor_infos
from relaxc.runtime.profiler import TimedRun


class DividedModel(Model):
    """A model that several GPUs compute together.

    Attributes:
        inputs, outputs: whole, as callers give and get them.
        device: which GPUs, as `cuda:0,1`.
    """

    def __init__(
        self, artifact: Artifact, device: str | None, threads: int, cache_dir: Path | None
    ) -> None:
        """Load each GPU's part.

        Raises:
            OptionError: there are more or less GPUs than parts.
            TargetError: a GPU does not fit, or cannot reach another's memory.
        """
        numbers = _numbers(artifact, device)
        require_devices(artifact, numbers)
        require_this_machine(artifact)
        needs = artifact.manifest["requirements"]["cuda"]
        gpus = [Gpu(artifact.path, number, needs) for number in numbers]
        self.device = "cuda:" + ",".join(map(str, numbers))
        self.manifest = artifact.manifest
        self.inputs = tensor_infos(self.manifest["inputs"])
        self.outputs = tensor_infos(self.manifest["outputs"])
        self.threads = threads
        self._cache_dir = cache_dir
        self._dtypes = [numpy_dtype(info.dtype) for info in self.inputs]
        pieces = [artifact.piece(rank) for rank in range(len(gpus))]
        modules = [load_model(piece, cache_dir)[0] for piece in pieces]
        try:
            self._engine = DividedEngine(artifact, modules, gpus)
            self._idle = [self._engine.new_runner()]  # type: ignore[list-item]
        except ffi.FfiError as err:
            raise self._without_memory(err) or err from err

    def profile(self, feed: Mapping[str, Any], runs: int) -> list[TimedRun]:
        """Not for GPUs.

        Raises:
            OptionError: always.
        """
        raise OptionError("kernels on GPUs cannot be profiled; use `nsys profile`")


def _numbers(artifact: Artifact, device: str | None) -> list[int]:
    """Which GPUs to use: those asked for, or the first ones."""
    if device in (None, "cuda"):
        return list(range(len(artifact.manifest["tensor_parallel"]["pieces"])))
    assert device is not None
    parts = [parse_device(part) for part in (parts_of(device) if "," in device else [device])]
    if any(kind != "cuda" for kind, _ in parts):
        raise OptionError(
            f"`{artifact.path}` is compiled for `cuda`, not for `{device}`; "
            "compile the model with another `--target`"
        )
    return [number for _, number in parts]
