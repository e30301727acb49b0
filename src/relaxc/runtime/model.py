"""A loaded model: checked inputs in, outputs out, from any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relaxc.artifact import Artifact, numpy_dtype
from relaxc.errors import InputError, OptionError, TargetError, near_matches
from relaxc.runtime import ffi
from relaxc.runtime.cuda import Gpu, parse_device
from relaxc.runtime.cuda_runner import CudaEngine, CudaRunner
from relaxc.runtime.device_tensor import DeviceTensor
from relaxc.runtime.library import load_model, require_this_machine
from relaxc.runtime.profiler import TimedRun
from relaxc.runtime.runner import CpuEngine, Runner
from relaxc.runtime.threads import gate, pool_caller


@dataclass(frozen=True)
class TensorInfo:
    """An input or an output.

    Attributes:
        name: its name in the ONNX model.
        dtype: NumPy's name of the element type; of models with such values also `string`,
            `sequence(float32)`, `optional(...)`.
        shape: dimensions; a string is a symbolic dimension or an expression of such.
        has_rank: whether `shape` is known at all; the elements of a sequence may be of any.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    has_rank: bool = True

    @property
    def is_numeric(self) -> bool:
        """Whether it is a tensor of numbers: neither strings nor a container."""
        return self.dtype != "string" and "(" not in self.dtype

    def __str__(self) -> str:
        if not self.has_rank:
            return f"{self.name}: {self.dtype}"
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class Model:
    """A loaded artifact. Any number of Python threads may call it at the same time."""

    def __init__(
        self, artifact: Artifact, device: str | None, threads: int, cache_dir: Path | None
    ) -> None:
        kind, index = _device_of(artifact, device)
        require_this_machine(artifact)
        gpu = None
        if kind == "cuda":
            gpu = Gpu(artifact.path, index, artifact.manifest["requirements"]["cuda"])
        self.device = "cpu" if gpu is None else f"cuda:{index}"
        self.manifest = artifact.manifest
        self.inputs = tensor_infos(self.manifest["inputs"])
        self.outputs = tensor_infos(self.manifest["outputs"])
        self.threads = threads
        self._cache_dir = cache_dir
        module, pool = load_model(artifact, cache_dir)
        self._dtypes = [numpy_dtype(info.dtype) for info in self.inputs]
        dtypes = [numpy_dtype(info.dtype) for info in self.outputs]
        try:
            self._engine: CpuEngine | CudaEngine = (
                CpuEngine(artifact, module, dtypes, pool_caller(pool, threads))
                if gpu is None
                else CudaEngine(artifact, module, dtypes, gpu)
            )
            # A virtual machine serves one call at a time; idle ones wait here. list.pop and
            # list.append are atomic.
            self._idle: list[Runner | CudaRunner] = [self._engine.new_runner()]
        except ffi.FfiError as err:
            raise self._without_memory(err) or err from err

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on positional or named inputs; return the output, or a tuple of them.

        Raises:
            InputError: an input is missing, unknown, or of another dtype or shape.
        """
        names = [info.name for info in self.inputs]
        if len(args) > len(names):
            raise InputError(f"the model takes {len(names)} inputs, {len(args)} were given")
        feed = dict(zip(names, args))
        repeated = sorted(set(feed) & set(kwargs))
        if repeated:
            raise InputError(f"input `{repeated[0]}` was given twice")
        results = self._run(feed | kwargs)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Run on named inputs and return the outputs by name.

        On a GPU, outputs are `DeviceTensor` if an input lies there already, else arrays.

        Raises:
            InputError: an input is missing, unknown, or of another dtype or shape.
        """
        return dict(zip((info.name for info in self.outputs), self._run(feed)))

    def profile(self, feed: Mapping[str, Any], runs: int) -> list[TimedRun]:
        """Time every call that an inference consists of, in a virtual machine of its own.

        Args:
            feed: named inputs.
            runs: inferences to time, after one that warms up.

        Raises:
            InputError: an input is missing, unknown, or of another dtype or shape.
            ArtifactError: the artifact was compiled by a relaxc that had no profiler.
            OptionError: the model runs on a GPU, where kernels end after their calls do.
        """
        if not isinstance(self._engine, CpuEngine):
            raise OptionError("kernels on a GPU cannot be profiled; use `nsys profile`")
        arrays = self._checked(feed)
        runner, profiler = self._engine.new_profiled_runner(self._cache_dir)
        timed: list[TimedRun] = []
        with gate():
            while len(timed) < runs + 1:
                profiler.start()
                self._compute(runner, arrays)
                if profiler.is_complete:  # else the next one has more room
                    timed.append(profiler.timed_run())
        return timed[1:]

    def _run(self, feed: Mapping[str, Any]) -> list[Any]:
        arrays = self._checked(feed)
        with gate():
            try:
                runner = self._idle.pop()
            except IndexError:
                runner = self._engine.new_runner()
            try:
                return self._compute(runner, arrays)
            finally:  # after a failure too: a machine keeps nothing of a call
                self._idle.append(runner)

    def _compute(self, runner: Runner | CudaRunner, arrays: list[Any]) -> list[Any]:
        try:
            return runner.run(arrays)
        except ffi.FfiError as err:
            if (lacking := self._without_memory(err)) is not None:
                raise lacking from err
            shapes = ", ".join(f"{i.name} {list(a.shape)}" for i, a in zip(self.inputs, arrays))
            reason = str(err).splitlines()[0]
            if "bad_alloc" in reason:
                reason = "it asks for more memory than there is, or computes a negative size"
            raise InputError(
                f"the model fails on inputs of these shapes ({shapes}): {reason}"
            ) from err

    def _without_memory(self, err: ffi.FfiError) -> TargetError | None:
        """What to say when the reason is that memory ran out."""
        if "out of memory" not in str(err):
            return None
        return TargetError(
            f"{self.device} has too little free memory for this model; free some, use smaller "
            "inputs, or load the model on another GPU"
        )

    def put(self, array: np.ndarray, name: str | None = None) -> DeviceTensor:
        """Copy an array to the model's GPU, to be used as an input any number of times.

        Args:
            array: what to copy.
            name: of the input; models that are divided among GPUs must know it.

        Raises:
            OptionError: the model runs on the CPU.
        """
        if not isinstance(self._engine, CudaEngine):
            raise OptionError("the model runs on the CPU; give it arrays as they are")
        return self._engine.put(array, name)

    def synchronize(self) -> None:
        """Wait until outputs that are still being computed on a GPU are ready."""
        if isinstance(self._engine, CudaEngine):
            self._engine.synchronize()

    def _checked(self, feed: Mapping[str, Any]) -> list[Any]:
        require_known(self.inputs, feed)
        symbols: dict[str, int] = {}
        arrays = []
        for info, dtype in zip(self.inputs, self._dtypes):
            try:
                array = self._engine.as_input(feed[info.name], dtype)
            except ValueError as err:
                raise InputError(f"input `{info.name}` cannot be read: {err}") from err
            if array.dtype != dtype:
                raise InputError(
                    f"input `{info.name}` must be {info.dtype}, not {array.dtype.name}; "
                    f"convert it with `.astype('{info.dtype}')`"
                )
            if array.shape != info.shape and not fits(array.shape, info.shape, symbols):
                known = "".join(f"; {name} is {size} already" for name, size in symbols.items())
                raise InputError(
                    f"input `{info.name}` must have shape [{', '.join(map(str, info.shape))}], "
                    f"not {list(array.shape)}{known}"
                )
            arrays.append(array)
        return arrays


def require_known(inputs: Sequence[TensorInfo], feed: Mapping[str, Any]) -> None:
    """Fail unless a feed has the inputs of a model, and no others.

    Raises:
        InputError: one is unknown or missing.
    """
    names = [info.name for info in inputs]
    unknown = [name for name in feed if name not in names]
    if unknown:
        raise InputError(
            f"unknown input `{unknown[0]}`{near_matches(unknown[0], names)}; "
            f"the model takes {', '.join(f'`{n}`' for n in names) or 'no inputs'}"
        )
    for info in inputs:
        if info.name not in feed:
            raise InputError(f"input `{info.name}` is missing; it is {info}")


def tensor_infos(entries: Sequence[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
    """Inputs or outputs as a manifest lists them."""
    return tuple(TensorInfo(e["name"], e["dtype"], tuple(e["shape"])) for e in entries)


def fits(actual: tuple[int, ...], declared: tuple[int | str, ...], symbols: dict[str, int]) -> bool:
    """Whether a shape is one of those declared; `symbols` collects what its symbols stand for."""
    if len(actual) != len(declared):
        return False
    return all(
        size == (symbols.setdefault(dim, size) if isinstance(dim, str) else dim)
        for size, dim in zip(actual, declared)
    )


def _device_of(artifact: Artifact, device: str | None) -> tuple[str, int]:
    """The device to use: the one asked for if the artifact has code for it, else its own."""
    built = "cuda" if artifact.manifest["target"]["kind"] == "cuda" else "cpu"
    kind, index = parse_device(built if device is None else device)
    if kind != built:
        raise OptionError(
            f"`{artifact.path}` is compiled for `{built}`, not for `{device}`; "
            "compile the model with another `--target`"
        )
    return kind, index
