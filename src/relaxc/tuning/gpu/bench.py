"""One task's kernels on a GPU: the same data for all, the untuned one beside each candidate.

Travels with candidates, see folder.py. Data lie where they lay at the launch before, as those of a
model that the kernel in front has just written; weights are others at each launch, so that they
come from memory. Launches are recorded, and begin as in a model while the one before ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from relaxc.targets.cuda.kernels.packing import StagePacking, TilePacking
from relaxc.tuning.judging import judged

# Weights of so many bytes do not stay in a GPU's cache.
_CACHE_BYTES = 120 << 20
_MOST_SETS = 24
# A recorded sequence of launches takes so long, at least, but not more of them than this.
_LEAST_S, _MOST_LAUNCHES, _FEWEST_LAUNCHES = 6e-4, 96, 8
# Random numbers, repeated; a prime, so that no row is like another.
_PERIOD = 1_000_003
# Bytes of a result that nobody wrote: NaN, and a byte that few results are.
_UNWRITTEN, _UNLIKELY = 0xFF, 0xA5

Plan = Mapping[str, Any]


class Machine(Protocol):
    """What runs kernels: driver.Device, or what stands in for it."""

    def upload(self, array: np.ndarray) -> int: ...  # noqa: D102
    def duplicate(self, address: int, size: int) -> int: ...  # noqa: D102
    def allocate(self, size: int) -> int: ...  # noqa: D102
    def fill(self, address: int, byte: int, size: int) -> None: ...  # noqa: D102
    def download(self, address: int, array: np.ndarray) -> None: ...  # noqa: D102
    def free(self, address: int) -> None: ...  # noqa: D102
    def synchronize(self) -> None: ...  # noqa: D102
    def kernel(self, cubin: bytes, name: str, launch: Plan) -> Any: ...  # noqa: D102
    def launch(self, kernel: Any, arguments: Any) -> None: ...  # noqa: D102
    def recorded(self, launches: Callable[[], None]) -> Any: ...  # noqa: D102
    def seconds(self, graph: Any) -> float: ...  # noqa: D102


class Bench:
    """A task on a GPU.

    Args:
        device: the GPU.
        folder: of candidates.
        task: from its plan; the first of its kernels is the untuned one.

    Attributes:
        seconds: a launch of the untuned kernel.
    """

    def __init__(self, device: Machine, folder: Path, task: Plan) -> None:
        self._device, self._folder, self._task = device, folder, task
        self._inputs: list[int] = []
        self._kept: list[int] = []
        self._launches = _FEWEST_LAUNCHES
        untuned = _Loaded(self, task["kernels"][0])
        self._wanted = untuned.result()
        first = untuned.seconds()
        self._launches = int(min(_MOST_LAUNCHES, max(_FEWEST_LAUNCHES, _LEAST_S / first)))
        untuned.record()
        self.seconds = min(untuned.seconds() for _ in range(3))
        self._untuned = untuned

    def trial(self, number: int, pairs: int, least_s: float) -> dict[str, Any]:
        """Check a candidate, and time it beside the untuned kernel."""
        candidate = _Loaded(self, self._task["kernels"][number])
        try:
            wrong = difference(candidate.result(), self._wanted, float(self._task["tolerance"]))
            if wrong is not None:
                return {"outcome": "wrong", "detail": wrong}
            return judged(self._untuned.seconds, candidate.seconds, pairs, least_s)
        finally:
            candidate.close()

    def close(self) -> None:
        """Give everything back."""
        self._untuned.close()
        for address in self._inputs:
            self._device.free(address)

    def inputs(self, launch: Plan, count: int) -> list[int]:
        """The addresses of the data, which are made once."""
        if not self._inputs:
            is_e4m3 = self._task.get("workload", {}).get("element") == "e4m3"
            for place, (shape, dtype) in enumerate(launch["buffers"][:count]):
                array = random(shape, dtype, place)
                array = rows_of_e4m3(array) if is_e4m3 and place == 0 else array
                self._inputs.append(self._device.upload(array))
        return self._inputs

    @property
    def device(self) -> Machine:
        """The GPU."""
        return self._device

    @property
    def launches(self) -> int:
        """In a recorded sequence."""
        return self._launches

    def read(self, *names: str) -> bytes:
        """A file of the folder."""
        return Path(self._folder, *names).read_bytes()

    def constant(self, about: Plan, shape: list[int], dtype: str) -> np.ndarray:
        """What a kernel takes beside its data: as it is in the folder, or random weights."""
        if about["packed"] is None:
            path = self._folder / "constants" / about["file"]
            return np.asarray(np.load(path, allow_pickle=False))
        packed, kind = about["packed"], str(about["packed"]["dtype"])
        depth, columns = int(packed["depth"]), int(packed["columns"])
        matrix = random([columns, depth], kind, 100)
        if kind == "uint16":
            matrix = as_bfloat16(as_float(matrix) / np.float32(np.sqrt(depth)))
        elif kind == "uint8":
            matrix = numbers_of_e4m3(matrix)
        elif kind != "int8":
            matrix = matrix.astype(np.float32) / np.float32(np.sqrt(depth))
            if self._task["workload"].get("precision") != "float32":
                # Few bits, so that rounding on the way to tensor cores changes nothing.
                matrix = matrix.astype(np.float16)
            matrix = matrix.astype(kind)
        packing = (StagePacking if "groups" in packed["packing"] else TilePacking)(
            **packed["packing"]
        )
        found: np.ndarray = packing.apply(matrix.T).view(dtype)
        assert list(found.shape) == shape, (found.shape, shape)
        return found


class _Loaded:
    """A kernel, its weights and its result on the GPU."""

    def __init__(self, bench: Bench, about: Plan) -> None:
        device = self._device = bench.device
        self._bench = bench
        launch = about["launch"]
        name = str(about["name"])
        self._kernel = device.kernel(bench.read("cubins", f"{name}.cubin"), name, launch)
        buffers, constants = launch["buffers"], about["constants"]
        count = len(buffers) - 1 - len(constants)
        inputs = bench.inputs(launch, count)
        arrays = [
            bench.constant(constant, *buffers[count + place])
            for place, constant in enumerate(constants)
        ]
        sizes = [array.nbytes for array in arrays]
        sets = 1 if not sum(sizes) else min(_MOST_SETS, max(2, _CACHE_BYTES // sum(sizes) + 1))
        first = [device.upload(array) for array in arrays]
        weights = [first]
        for _ in range(sets - 1):
            weights.append([device.duplicate(at, size) for at, size in zip(first, sizes)])
        shape, dtype = buffers[-1]
        self._result = np.empty(shape, dtype)
        self._output = device.allocate(self._result.nbytes)
        self._owned = [address for those in weights for address in those] + [self._output]
        self._arguments = [
            self._kernel.arguments([*inputs, *those, self._output]) for those in weights
        ]
        self._graph: Any = None

    def result(self) -> np.ndarray:
        """Run it once."""
        byte = _UNLIKELY if self._result.dtype == np.uint8 else _UNWRITTEN
        self._device.fill(self._output, byte, self._result.nbytes)
        self._device.launch(self._kernel, self._arguments[0])
        self._device.synchronize()
        self._device.download(self._output, self._result)
        return self._result

    def record(self) -> None:
        """Record as many launches as the bench says."""
        if self._graph is not None:
            self._graph.destroy()

        def launches() -> None:
            for number in range(self._bench.launches):
                arguments = self._arguments[number % len(self._arguments)]
                self._device.launch(self._kernel, arguments)

        self._graph = self._device.recorded(launches)
        self._recorded = self._bench.launches
        self._device.seconds(self._graph)

    def seconds(self) -> float:
        """One launch of many."""
        if self._graph is None:
            self.record()
        return self._device.seconds(self._graph) / self._recorded

    def close(self) -> None:
        """Give memory back."""
        if self._graph is not None:
            self._graph.destroy()
        self._kernel.unload()
        for address in self._owned:
            self._device.free(address)


def random(shape: list[int], dtype: str, seed: int) -> np.ndarray:
    """Numbers to compute with; always the same."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind in (np.int8, np.uint8):
        low, high = (-127, 128) if kind == np.int8 else (0, 256)
        return np.resize(rng.integers(low, high, _PERIOD, kind), shape)
    base = rng.standard_normal(_PERIOD, np.float32)
    if kind == np.uint16:  # bfloat16, by its bits
        return np.resize(as_bfloat16(base), shape)
    if kind.kind != "f":
        return np.resize(rng.integers(0, 2, _PERIOD, kind), shape)
    return np.resize(base.astype(kind), shape)


def numbers_of_e4m3(array: np.ndarray) -> np.ndarray:
    """Bytes that are numbers as floats of eight bits, too."""
    return np.asarray(np.where(array & 0x7F == 0x7F, 0, array), np.uint8)


def rows_of_e4m3(array: np.ndarray) -> np.ndarray:
    """Rows of such numbers, and behind the last a scale for each: results fit into halves."""
    rows = array.size // array.shape[-1]
    numbers = numbers_of_e4m3(array.reshape(-1)[: array.size - 4 * rows])
    scales = np.full(rows, 2.0**-10, np.float32).view(np.uint8)
    return np.concatenate([numbers, scales]).reshape(array.shape)


def as_bfloat16(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def as_float(array: np.ndarray) -> np.ndarray:
    """What a buffer holds, as float32."""
    if array.dtype != np.uint16:
        return array.astype(np.float32)
    whole: np.ndarray = array.astype(np.uint32) << np.uint32(16)
    return np.asarray(whole.view(np.float32))


def difference(result: np.ndarray, wanted: np.ndarray, tolerance: float) -> str | None:
    """What is wrong with a result, relative to the largest number; None if nothing is."""
    if result.dtype == np.uint8:
        steps = int(np.abs(result.astype(np.int16) - wanted).max(initial=0))
        return None if steps <= 1 else f"results differ by {steps} steps"
    a, b = as_float(result), as_float(wanted)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return "it leaves out elements, or writes others"
    is_number = np.isfinite(b)
    largest = float(np.abs(b, where=is_number, out=np.zeros_like(b)).max(initial=1e-30))
    apart = np.subtract(a, b, where=is_number, out=np.zeros_like(b))
    error = float(np.abs(apart).max(initial=0.0)) / largest
    return None if error <= tolerance else f"results differ by {error:.1e} of the largest"


def read_plan(folder: Path) -> dict[str, Any]:
    """What is to be measured."""
    plan: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    return plan
