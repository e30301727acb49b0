"""One model that several GPUs compute together, each its part of every layer.

Kernels of one GPU wait for data from the others, so that nothing may keep the host from starting
them all: neither memory that is allocated nor code that is loaded, for both can wait until GPUs are
idle. Hence calls are recorded as CUDA graphs, of all GPUs, before any of them is started; and the
first call, which cannot be recorded, is one in which each GPU computes alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relaxc.artifact import Artifact, numpy_dtype
from relaxc.errors import InputError, OptionError
from relaxc.runtime import ffi
from relaxc.runtime.cuda import Gpu
from relaxc.runtime.cuda_graph import Place, Recorded, Recorder
from relaxc.runtime.cuda_runner import (
    CudaEngine,
    CudaRunner,
    CudaWeights,
    is_within,
    new_machine,
)
from relaxc.runtime.device_tensor import DeviceTensor, empty_like
from relaxc.runtime.divided_tensor import DividedTensor
from relaxc.runtime.peers import Peers, communicator_offset
from relaxc.runtime.tensors import as_array

# Results that are held at a time are so many; each needs a graph of its own.
_MOST_GRAPHS = 256
Dtypes = Sequence[np.dtype[Any]]


def require_devices(artifact: Artifact, devices: Sequence[int]) -> None:
    """Fail unless there is a GPU for each part of a model.

    Raises:
        OptionError: there are more, or less.
    """
    count = len(artifact.manifest["tensor_parallel"]["pieces"])
    if len(devices) != count:
        listed = ",".join(map(str, range(count)))
        raise OptionError(
            f"`{artifact.path}` is divided among {count} GPUs, not {len(devices)}; load it with "
            f"device `cuda:{listed}` or other {count} numbers"
        )


class DividedEngine(CudaEngine):
    """A model on several GPUs: makes the runners that serve calls, which share the weights."""

    def __init__(
        self, artifact: Artifact, modules: Sequence[ffi.Object], gpus: Sequence[Gpu]
    ) -> None:
        described = artifact.manifest["tensor_parallel"]
        outputs = [entry["name"] for entry in artifact.manifest["outputs"]]
        pieces = [artifact.piece(rank) for rank in range(len(gpus))]
        self._modules = modules
        self._gpus = list(gpus)
        self._names = [str(entry["name"]) for entry in artifact.manifest["inputs"]]
        self._input_axes: Mapping[str, int] = described["inputs"]
        self._output_axes = [described["outputs"].get(name) for name in outputs]
        self._dtypes = [numpy_dtype(e["dtype"]) for e in artifact.manifest["outputs"]]
        self._peers = Peers(artifact.path, gpus)
        self._parts = []
        for piece, gpu in zip(pieces, gpus):
            gpu.activate()
            self._parts.append(CudaWeights(piece, gpu))
        self._places = [
            weights.span[0] + communicator_offset(piece)
            for weights, piece in zip(self._parts, pieces)
        ]
        self._lock = threading.Lock()

    def new_runner(self) -> DividedRunner:  # type: ignore[override]
        """Virtual machines of its own; all runners do their calls in turn."""
        ranks = []
        for module, weights, gpu in zip(self._modules, self._parts, self._gpus):
            gpu.activate()
            main = new_machine(module, gpu)["main"]
            ranks.append(RankRunner(main, weights, self._dtypes, gpu))
        axes = [self._input_axes.get(name) for name in self._names]
        return DividedRunner(ranks, axes, self._output_axes, self._lock, self._introduce)

    def _introduce(self, joined: bool) -> None:
        self._peers.introduce(self._places, joined=joined)

    def as_input(  # type: ignore[override]
        self, value: Any, dtype: np.dtype[Any]
    ) -> np.ndarray | DividedTensor:
        """What a runner takes: an array, or what `put` or an earlier call returned.

        Raises:
            ValueError: the value cannot be viewed as one of these.
        """
        if isinstance(value, DividedTensor):
            return value
        place = getattr(value, "__dlpack_device__", None)
        if place is not None and place()[0] == ffi.CUDA:
            raise ValueError("a tensor on one GPU is not on the others; give an array, or `put` it")
        return as_array(value, dtype)

    def synchronize(self) -> None:
        """Wait for all GPUs."""
        for gpu in self._gpus:
            gpu.activate()
            gpu.synchronize()

    def put(self, array: np.ndarray, name: str | None) -> DividedTensor:  # type: ignore[override]
        """Copy an array to the GPUs: divided as an input of this name is, or whole to all.

        Raises:
            InputError: no input has that name.
        """
        if name is not None and name not in self._names:
            raise InputError(f"unknown input `{name}`; the model takes {', '.join(self._names)}")
        axis = None if name is None else self._input_axes.get(name)
        parts = []
        for rank, gpu in enumerate(self._gpus):
            gpu.activate()
            part = np.ascontiguousarray(part_of(array, axis, rank, len(self._gpus)))
            tensor = empty_like(part.shape, part.dtype, gpu)
            gpu.upload(tensor.address, part)
            parts.append(tensor)
        return DividedTensor(parts, axis)


def part_of(array: np.ndarray, axis: int | None, rank: int, ranks: int) -> np.ndarray:
    """One GPU's part of an array, which may be the whole."""
    return array if axis is None else np.split(array, ranks, axis)[rank]


class RankRunner(CudaRunner):
    """Runs one GPU's part of a model, in steps."""

    def __init__(self, main: ffi.Object, weights: CudaWeights, outputs: Dtypes, gpu: Gpu) -> None:
        self._graphs = Recorder(gpu, _MOST_GRAPHS)
        super().__init__(main, weights, outputs, gpu, self._graphs)
        self._given: list[DeviceTensor] = []
        self._ready: Recorded | None = None
        self.gpu = gpu

    def find(self, place: Place) -> bool:
        """Whether a call with inputs that lie there was recorded: then it is ready."""
        self._ready = self._graphs.known(place)
        return self._ready is not None

    def begin(self, inputs: Sequence[np.ndarray | DeviceTensor]) -> None:
        """Take the inputs."""
        self._given = self._hand_over(inputs)

    def compute_alone(self) -> None:
        """Allocate and load what calls need."""
        self.gpu.activate()
        self._invoke()
        self.gpu.synchronize()

    def record(self) -> None:
        """Record the launches of a call with these inputs, unless that was done.

        Raises:
            FfiError: they cannot be recorded.
            InputError: too many results are held.
        """
        self.gpu.activate()
        place = tuple(tensor.address for tensor in self._given)
        self._ready = self._graphs.ready(place, self._invoke)
        if self._ready is None and self._graphs.works:
            raise InputError(
                f"{_MOST_GRAPHS} results of earlier calls are still held; drop some, or copy them"
            )
        if self._ready is None:
            raise ffi.FfiError("CUDA: the launches of a call cannot be recorded as a graph")
        recorded = self._ready
        if not recorded.tensors:
            pairs = zip(recorded.results, self._outputs)
            recorded.tensors = [DeviceTensor(tensor, dtype, self.gpu) for tensor, dtype in pairs]
        spans = self._spans(self._given)
        if any(is_within(tensor, spans) for tensor in recorded.tensors):
            raise ffi.FfiError("an output is an input or a weight, unchanged")

    def launch(self) -> list[DeviceTensor]:
        """Begin the call."""
        assert self._ready is not None, "record() comes first"
        self.gpu.activate()
        pairs = zip(self._ready.tensors, self._ready.launch())
        return [known.again(tensor) for known, tensor in pairs]


class DividedRunner:
    """Runs `main` of virtual machines on several GPUs."""

    def __init__(
        self,
        ranks: Sequence[RankRunner],
        inputs: Sequence[int | None],
        outputs: Sequence[int | None],
        lock: threading.Lock,
        introduce: Any,
    ) -> None:
        self._ranks = list(ranks)
        self._inputs = list(inputs)
        self._outputs = list(outputs)
        self._lock = lock
        self._introduce = introduce
        self._is_warm = False

    def run(self, inputs: Sequence[np.ndarray | DividedTensor]) -> list[Any]:
        """Run on inputs of the right dtypes and shapes.

        Returns:
            Divided tensors if any input is one, else arrays.

        Raises:
            FfiError: compiled code or CUDA reports an error.
            InputError: an input is divided otherwise than the model's is.
        """
        with self._lock:
            if not self._find(inputs):
                self._record(inputs)
            results = [runner.launch() for runner in self._ranks]
            outputs = [
                DividedTensor(parts, axis)
                for parts, axis in zip(zip(*results), self._outputs, strict=True)
            ]
            if any(isinstance(value, DividedTensor) for value in inputs):
                return outputs
            return [self._downloaded(output) for output in outputs]

    def _find(self, inputs: Sequence[np.ndarray | DividedTensor]) -> bool:
        """Whether a call with inputs where these are was recorded: the way that must be short."""
        addresses = []
        for value, axis in zip(inputs, self._inputs):
            if not isinstance(value, DividedTensor) or value.axis != axis:
                return False
            addresses.append(value.addresses)
        pairs = zip(self._ranks, zip(*addresses))
        return bool(addresses) and all(runner.find(place) for runner, place in pairs)

    def _record(self, inputs: Sequence[np.ndarray | DividedTensor]) -> None:
        count = len(self._ranks)
        for rank, runner in enumerate(self._ranks):
            pairs = zip(inputs, self._inputs)
            runner.begin([_part(value, axis, rank, count) for value, axis in pairs])
        if not self._is_warm:
            self._warm_up()
        for runner in self._ranks:
            runner.record()

    def _downloaded(self, output: DividedTensor) -> np.ndarray:
        if output.axis is None:
            self._ranks[0].gpu.activate()
            return output.parts[0].numpy()
        found = []
        for runner, part in zip(self._ranks, output.parts):
            runner.gpu.activate()
            found.append(part.numpy())
        return np.concatenate(found, output.axis)

    def _warm_up(self) -> None:
        self._introduce(False)
        for runner in self._ranks:
            runner.compute_alone()
        self._introduce(True)
        self._is_warm = True


def _part(
    value: np.ndarray | DividedTensor, axis: int | None, rank: int, ranks: int
) -> np.ndarray | DeviceTensor:
    if isinstance(value, np.ndarray):
        return part_of(value, axis, rank, ranks)
    if value.axis != axis or len(value.parts) != ranks:
        wanted = "whole" if axis is None else f"divided along axis {axis}"
        raise InputError(
            f"an input of shape {list(value.shape)} must be {wanted} on each of {ranks} GPUs; "
            "put it there by `model.put(array, name)`"
        )
    return value.parts[rank]
