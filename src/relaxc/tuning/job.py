"""A kernel with everything that it takes to run it alone, in a folder: for another process.

    kernel.json    the PrimFunc
    job.json       logical shapes and layouts of its parameters and its result, scalars
    0.npy ...      its constants

Nothing in it is code of Python, and nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tvm import tirx
from tvm_ffi.serialization import from_json_graph_str, to_json_graph_str

from relaxc.layout import PLAIN, Layout, Quantization
from relaxc.targets.llvm.machine import Machine
from relaxc.targets.llvm.nests import NestSite
from relaxc.targets.llvm.tuning import Site
from relaxc.targets.tuning.task import Choice

# Relative to the largest element: how far a candidate's results may be from the untuned kernel's.
_TOLERANCE, _TOLERANCE_BF16 = 2e-4, 2e-2
_SEED = 0
# A byte that few results are.
_UNLIKELY = 0xA5


AnySite: TypeAlias = Site | NestSite


@dataclass(frozen=True)
class Job:
    """A kernel to run.

    Attributes:
        func: the code.
        tensors: (logical shape, layout) of each parameter, the result last.
        constants: what follows the parameters.
        scalars: what follows the constants.
    """

    func: tirx.PrimFunc
    tensors: list[tuple[tuple[int, ...], Layout]]
    constants: list[np.ndarray]
    scalars: list[int]

    @staticmethod
    def of(site: AnySite, choice: Choice, machine: Machine) -> Job:
        """A site's kernel, written with a choice."""
        kernel = site.written(choice, machine)
        tensors = site.tensors(choice, machine)
        return Job(kernel.func, tensors, list(kernel.constants), list(kernel.scalars))

    def write(self, folder: Path) -> None:
        """Write it to a new folder."""
        folder.mkdir()
        (folder / "kernel.json").write_text(to_json_graph_str(self.func))
        about = {
            "tensors": [[list(shape), str(layout)] for shape, layout in self.tensors],
            "constants": len(self.constants),
            "scalars": self.scalars,
        }
        (folder / "job.json").write_text(json.dumps(about))
        for i, array in enumerate(self.constants):
            np.save(folder / f"{i}.npy", array, allow_pickle=False)

    @staticmethod
    def read(folder: Path) -> Job:
        """Read what `write` wrote."""
        about = json.loads((folder / "job.json").read_text())
        return Job(
            from_json_graph_str((folder / "kernel.json").read_text()),
            [(tuple(shape), Layout.parse(text)) for shape, text in about["tensors"]],
            [np.load(folder / f"{i}.npy", allow_pickle=False) for i in range(about["constants"])],
            about["scalars"],
        )


def laid_out(array: np.ndarray, layout: Layout) -> np.ndarray:
    """A logical tensor as it lies in memory; channels of the buffer beyond it are zero."""
    if not layout.same_memory(PLAIN):
        top, left, bottom, right = layout.border
        before = after = 0
        if layout.slice is not None:
            before = layout.slice.offset
            after = layout.slice.total - before - array.shape[1]
        array = np.pad(array, ((0, 0), (before, after), (top, bottom), (left, right)))
        n, c, h, w = array.shape
        if layout.kind == "blocked":
            array = np.pad(array, ((0, 0), (0, -c % layout.block), (0, 0), (0, 0)))
            array = array.reshape(n, -1, layout.block, h, w).transpose(0, 1, 3, 4, 2)
        elif layout.kind == "last":
            array = array.transpose(0, 2, 3, 1)
    stored = Quantization.of(layout.element)
    if stored is not None:
        whole = np.rint(array / stored.scale) + stored.zero_point
        return np.ascontiguousarray(np.clip(whole, 0, 255).astype(np.uint8))
    array = np.ascontiguousarray(array)
    return as_bfloat16(array) if layout.element == "bfloat16" else array


def empty(shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    """A buffer for a result, full of NaN or of a byte: what a kernel leaves out must show."""
    physical = shape if layout.same_memory(PLAIN) else tuple(layout.physical_shape(list(shape)))
    if Quantization.of(layout.element) is not None:
        return np.full(physical, _UNLIKELY, np.uint8)
    array = np.full(physical, np.nan, np.float32)
    return as_bfloat16(array) if layout.element == "bfloat16" else array


def as_bfloat16(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers."""
    return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)


def as_float(array: np.ndarray) -> np.ndarray:
    """What a buffer holds, as float32."""
    if array.dtype != np.uint16:
        return array
    whole: Any = array.astype(np.uint32) << 16
    floats: np.ndarray = whole.view(np.float32)
    return floats


def random_data(job: Job) -> list[np.ndarray]:
    """Logical tensors for all of a job's parameters; always the same."""
    rng = np.random.default_rng(_SEED)

    def random(shape: tuple[int, ...], layout: Layout) -> np.ndarray:
        stored = Quantization.of(layout.element)
        if stored is None:
            return rng.standard_normal(shape).astype(np.float32)
        integers = rng.integers(0, 256, shape) - stored.zero_point
        return (integers * stored.scale).astype(np.float32)

    return [random(shape, layout) for shape, layout in job.tensors[:-1]]


def arguments(job: Job, data: list[np.ndarray]) -> list[Any]:
    """What to call a job's kernel with; the result's buffer is last."""
    shape, layout = job.tensors[-1]
    inputs = [laid_out(array, layout) for array, (_, layout) in zip(data, job.tensors)]
    return [*inputs, *job.constants, *job.scalars, empty(shape, layout)]


def difference(result: np.ndarray, wanted: np.ndarray) -> str | None:
    """What is wrong with a result; None if nothing is."""
    if result.dtype == np.uint8:
        steps = int(np.abs(result.astype(np.int16) - wanted).max(initial=0))
        return None if steps <= 1 else f"results differ by {steps} steps"
    a, b = as_float(result), as_float(wanted)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return "it leaves out elements, or writes too many"
    largest = float(np.nanmax(np.abs(b), initial=1e-30))
    error = float(np.nanmax(np.abs(a - b), initial=0.0)) / largest
    allowed = _TOLERANCE_BF16 if result.dtype == np.uint16 else _TOLERANCE
    return None if error <= allowed else f"results differ by {error:.1e} of the largest"
