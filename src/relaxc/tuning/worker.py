"""The process in which candidates are built and run: `python -m relaxc.tuning.worker`.

It reads requests from stdin and writes answers to stdout, one JSON object per line each, until
stdin ends. What a candidate does to this process, its parent has to cope with.

Each timed run finds the caches as inside of a model: a sweep through memory has driven out weights
and results, then the data are written anew by the threads that a layer before would use. Candidate
and untuned kernel take turns, so that a drift of the machine's speed hits both alike.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from relaxc import tvm_patches
from relaxc.runtime import ffi
from relaxc.runtime.library import load_kernels
from relaxc.runtime.tensors import to_tensor
from relaxc.runtime.threads import pool_caller
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.targets.llvm.kernels.builder import KernelBuilder
from relaxc.tuning.job import Job, arguments, difference, random_data
from relaxc.tuning.judging import judged

# Elements that one step of a sweep or a copy handles.
_STRIDE = 1024


class Worker:
    """Builds, checks and times kernels of one task after the other.

    Args:
        target: what to build for: this machine.
        threads: that share a kernel's loops.
        sweep_bytes: memory to touch before each run.
        folder: for libraries.
    """

    def __init__(self, target: str, threads: int, sweep_bytes: int, folder: Path) -> None:
        self.backend = LlvmBackend(tvm.target.Target(target))
        self._folder = folder
        self._built = 0
        library = folder / "threadpool.so"
        library.write_bytes(self.backend.pool_library())
        self._pool = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self._call = pool_caller(self._pool, threads)
        self._swept = np.zeros(max(sweep_bytes // 4 // _STRIDE, 1) * _STRIDE, np.float32)
        self._sweep = self._prepared(_sweep_kernel(self._swept.size), [self._swept])
        self._data: list[np.ndarray] = []
        self._untuned: _Loaded | None = None
        self._functions: dict[str, ffi.Object] = {}

    def task(self, folder: Path) -> dict[str, Any]:
        """Begin a task with the untuned kernel; answers how long that takes."""
        job = Job.read(folder)
        self._data = random_data(job)
        self._untuned = self._loaded(job)
        self._untuned.run()
        return {"outcome": "ok", "seconds": min(self._timed(self._untuned) for _ in range(5))}

    def trial(self, folder: Path, pairs: int, least_s: float) -> dict[str, Any]:
        """Judge a candidate beside the untuned kernel."""
        untuned = self._untuned
        assert untuned is not None, "a task begins with its untuned kernel"
        candidate = self._loaded(Job.read(folder))
        candidate.run()
        untuned.run()
        wrong = difference(candidate.result, untuned.result)
        if wrong is not None:
            return {"outcome": "wrong", "detail": wrong}
        return judged(lambda: self._timed(untuned), lambda: self._timed(candidate), pairs, least_s)

    def _timed(self, kernel: _Loaded) -> float:
        self._sweep()
        kernel.renew()
        begin = time.perf_counter()
        kernel.run()
        return time.perf_counter() - begin

    def _loaded(self, job: Job) -> _Loaded:
        arrays = arguments(job, self._data)
        run = self._prepared(job.func, arrays)
        renew: Callable[[], object] = lambda: None  # noqa: E731
        size = arrays[0].nbytes // (4 * _STRIDE) * _STRIDE
        if size:
            # The kernel's own tensor, which the copy keeps as it is.
            kept = run.arrays[0].reshape(-1).view(np.uint8)[: 4 * size].view(np.float32)
            source = kept.copy()
            renew = _Call(self._copier(size), [source, kept], self._call)
        return _Loaded(run, renew, run.arrays[-1])

    def _prepared(self, func: tirx.PrimFunc, args: list[Any]) -> _Call:
        return _Call(self._function(func), args, self._call)

    def _copier(self, size: int) -> ffi.Object:
        """Copies so many elements, in parallel."""
        name = f"copy{size}"
        if name not in self._functions:
            self._functions[name] = self._function(_copy_kernel(size))
        return self._functions[name]

    def _function(self, func: tirx.PrimFunc) -> ffi.Object:
        self._built += 1
        path = self._folder / f"{self._built}.so"
        self.backend.build_kernel(func, path)
        function = load_kernels(path, self._pool)["kernel"]
        path.unlink()
        return function


class _Call:
    """A function with its arguments."""

    def __init__(self, function: ffi.Object, args: list[Any], caller: Callable[..., int]) -> None:
        self.arrays: list[np.ndarray] = []
        tensors, values = [], []
        for arg in args:
            if isinstance(arg, int):
                values.append(ffi.Value(_INT, 0, arg))
                continue
            tensor, array = to_tensor(arg)
            self.arrays.append(array)
            tensors.append(tensor)
            values.append(tensor.value)
        self._tensors = tensors
        self._values = (ffi.Value * len(values))(*values)
        self._run = functools.partial(ffi.invoke, function, self._values, caller)

    def __call__(self) -> None:
        self._run()


# TVM's type index of an integer.
_INT = 1


class _Loaded:
    """A kernel that is ready to run."""

    def __init__(self, run: _Call, renew: Callable[[], object], result: np.ndarray) -> None:
        self.run, self.renew, self.result = run, renew, result


def _sweep_kernel(size: int) -> tirx.PrimFunc:
    b = KernelBuilder("kernel", 16)
    memory = b.param("memory", (size,))
    with b.parallel(size // _STRIDE) as t, b.loop(_STRIDE // 16) as i:
        at = b.let(t * _STRIDE + i * 16)
        b.store(memory, at, b.load(memory, at) + b.splat(1.0))
    return b.finish(public=True)


def _copy_kernel(size: int) -> tirx.PrimFunc:
    b = KernelBuilder("kernel", 16)
    source, to = b.param("source", (size,)), b.param("to", (size,))
    with b.parallel(size // _STRIDE) as t, b.loop(_STRIDE // 16) as i:
        at = b.let(t * _STRIDE + i * 16)
        b.store(to, at, b.load(source, at))
    return b.finish(public=True)


def _limit_memory(bytes_: int) -> None:
    """Let this process use so much more than it does now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + bytes_
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _die_with_parent() -> None:
    """A candidate that hangs must not outlive the tuner, even if that is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until stdin ends."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    tvm_patches.apply()
    setup = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        worker = Worker(setup["target"], setup["threads"], setup["sweep_bytes"], Path(folder))
        _limit_memory(setup["memory_bytes"])
        print(json.dumps({"outcome": "ready"}), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            path = Path(request["folder"])
            try:
                if request["kind"] == "task":
                    answer = worker.task(path)
                else:
                    answer = worker.trial(path, request["pairs"], request["least_s"])
            except MemoryError:
                answer = {"outcome": "memory"}
            except Exception as err:  # whatever it is, it is this candidate's
                first = (str(err).strip().splitlines() or [type(err).__name__])[0]
                answer = {"outcome": "failed", "detail": first[:200]}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
