"""Run models compiled for GPUs on the CPU: loop nests as they are, kernels in CUDA C++ emulated."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
import tvm_ffi
from kernels import workspace_tensors
from tvm import relax

from relaxc.errors import TargetError
from relaxc.frontend.importer import from_onnx
from relaxc.layout import Io, Precision
from relaxc.passes.base import Pass
from relaxc.passes.canonicalize.lift_constants import WEIGHTS
from relaxc.passes.pipeline import default_passes
from relaxc.passes.precision.convert_io import ConvertIo
from relaxc.targets.cuda.driver_stub import load_cuda_support
from relaxc.targets.cuda.kernels import gemm
from relaxc.targets.cuda.kernels.launch import DESCRIBE_PATCHES, KernelSource, take_sources
from relaxc.targets.cuda.toolchain import find_wheel_file
from relaxc.targets.registry import backend_for

_HEADER = Path(__file__).with_name("cuda_on_cpu.h")
_INSTRUCTIONS = Path(gemm.__file__).with_name("instructions.cuh")
_PEERS = _INSTRUCTIONS.with_name("peers.cuh")
_COMPILER = ["g++", "-std=c++17", "-O1", "-w", "-fPIC"]


def _headers() -> Path | None:
    installed = find_wheel_file("include/cuda_fp16.h")
    usual = Path("/usr/local/cuda/include/cuda_fp16.h")
    found = installed or (usual if usual.is_file() else None)
    return found.parent if found and shutil.which("g++") else None


needs_emulation = pytest.mark.skipif(
    _headers() is None, reason="needs g++ and the headers of CUDA's runtime"
)


# Relative to the largest element.
BOUNDS: dict[Precision, float] = {
    "float32": 5e-6,
    "tf32": 2e-3,
    "float16": 2e-3,
    "bfloat16": 1.5e-2,
}


def more(*values: object) -> object:
    """Another case for `make test-long`: an emulated kernel takes seconds to build."""
    return pytest.param(*values, marks=pytest.mark.long)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check_on_cpu(
    model: onnx.ModelProto,
    feed: Mapping[str, np.ndarray],
    precision: Precision = "float32",
    *,
    kernels: set[str],
    rtol: float,
) -> None:
    """Compare with ONNX Runtime, relative to the largest element; and which kernels did it."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, dict(feed))
    actual, used = run_on_cpu(model, feed, precision)
    assert kernels <= used, f"expected {kernels}, got {used}"
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * float(np.abs(e).max()))


def run_on_cpu(
    model: onnx.ModelProto,
    feed: Mapping[str, np.ndarray],
    precision: Precision,
    io: Io = "model",
) -> tuple[list[np.ndarray], set[str]]:
    """Returns the outputs, and the names of the kernels in CUDA C++, without their hashes."""
    machine = EmulatedModel(model, precision, io)
    return machine.run(feed), machine.kernels


class EmulatedModel:
    """A model for GPUs, or one GPU's part of it, with all that runs it on the CPU.

    Attributes:
        weights: what it takes after its inputs.
        kernels: names of those in CUDA C++, without their hashes.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        precision: Precision,
        io: Io = "model",
        sharding: Sequence[Pass] = (),
    ) -> None:
        backend = backend_for("cuda -arch=sm_90").with_precision(precision)
        imported = from_onnx(model)
        mod = imported.mod if io == "model" else ConvertIo(io).apply(imported.mod)
        for item in default_passes(backend.kernels, precision=precision, sharding=sharding):
            mod = item.apply(mod)
        self.weights = list(mod["main"].attrs[WEIGHTS])
        self._inputs = imported.inputs
        self._vm, sources, workspace = _machine(mod)
        self.weights += workspace
        self.kernels = {source.name.partition("_")[0] for source in sources}

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs."""
        inputs = [tvm.runtime.tensor(feed[name]) for name in self._inputs]
        result = self._vm["main"](*inputs, *self.weights)
        results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return [np.asarray(r.numpy()) for r in results]


def _machine(
    mod: tvm.IRModule,
) -> tuple[relax.VirtualMachine, list[KernelSource], list[tvm.runtime.Tensor]]:
    mod, sources = take_sources(mod)
    # TVM's library for CUDA ends the process where a name that it registers is taken.
    with contextlib.suppress(TargetError):
        load_cuda_support()
    for source in sources:
        tvm_ffi.register_global_func(source.name, _emulated(source), override=True)
    tvm_ffi.register_global_func("runtime.cuTensorMapEncodeTiled", _describe_matrix, override=True)
    tvm_ffi.register_global_func(DESCRIBE_PATCHES, _describe_patches, override=True)
    cpu = backend_for("llvm")
    with cpu.target:
        for _, transform in cpu.lowering_passes():
            mod = transform(mod)
        executable = relax.build(mod, cpu.target, relax_pipeline=None)
    return relax.VirtualMachine(executable, tvm.cpu()), sources, workspace_tensors(mod)


def _describe_matrix(to: Any, _dtype: str, rank: int, base: Any, *sizes: int) -> None:
    """Stands in for the driver: what the emulated copy engine must know of a matrix."""
    assert rank == 2
    columns, rows, stride, box_columns, box_rows = sizes[:5]
    assert stride % 16 == 0 and box_rows <= 256
    described = (ctypes.c_int64 * 6)(base.value, columns, rows, stride, box_columns, box_rows)
    ctypes.memmove(to.value, described, ctypes.sizeof(described))


def _describe_patches(to: Any, base: Any, _size: int, *numbers: int) -> None:
    """The same of patches."""
    described = (ctypes.c_int64 * 13)(base.value, *numbers)
    ctypes.memmove(to.value, described, ctypes.sizeof(described))


def _emulated(source: KernelSource) -> Any:
    path = _build(source.source, source.name)
    count = len(source.arguments)

    def run(*arguments: Any) -> None:
        library = _loaded(path)
        values = [getattr(a, "value", a) or 0 for a in arguments]
        x, y, z, threads, shared = values[count:]
        library.run((ctypes.c_int64 * count)(*values[:count]), x, y, z, threads, shared)

    return run


_own = threading.local()


def _loaded(path: Path) -> ctypes.CDLL:
    """A library of kernels; each thread has its own, because they remember what they run."""
    known: dict[Path, ctypes.CDLL] = _own.__dict__.setdefault("libraries", {})
    if path not in known:
        with tempfile.TemporaryDirectory() as folder:
            known[path] = ctypes.CDLL(str(shutil.copy(path, folder)))
    return known[path]


@functools.cache
def _built() -> Path:
    folder = tempfile.mkdtemp(prefix="relaxc-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


@functools.cache
def _build(source: str, name: str) -> Path:
    text = source.replace(_INSTRUCTIONS.read_text(), _HEADER.read_text())
    text = text.replace(_PEERS.read_text(), "")
    text = re.sub("#define (WGMMA(_VALUES|_ROWS|_SPARSE)?) .*", r"#define \1", text)
    assert "asm" not in text, "an instruction is not emulated"
    text += f"""
extern "C" void run(const int64_t* values, int x, int y, int z, int threads, int shared_bytes) {{
  launch({name}, values, Index{{x, y, z}}, threads, shared_bytes);
}}
"""
    path, output = (_built() / f"{name}.{suffix}" for suffix in ("cc", "so"))
    path.write_text(text)
    includes = _precompiled_includes()
    command = [*_COMPILER, f"-I{_headers()}", "-shared", "-include", str(includes)]
    subprocess.run([*command, "-o", str(output), str(path)], check=True)
    return output


@functools.cache
def _precompiled_includes() -> Path:
    """What every kernel includes, compiled once: half of the time of compiling one."""
    path = _built() / "includes.h"
    path.write_text("\n".join(re.findall("#include <.*>", _HEADER.read_text())))
    flags = [f"-I{_headers()}", "-x", "c++-header", "-o", f"{path}.gch"]
    subprocess.run([*_COMPILER, *flags, str(path)], check=True)
    return path
