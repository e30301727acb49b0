"""Load the shared libraries of an artifact, out of a content-addressed cache.

A library is stored under the SHA-256 of its contents, so that equal libraries (TVM's runtime, the
thread pool) are loaded once however many artifacts carry them.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import sys
import threading
from pathlib import Path

from relaxc import cpu
from relaxc.artifact import Artifact
from relaxc.cache import default_cache_dir
from relaxc.errors import ArtifactError, OutputError, TargetError
from relaxc.replacing import replacing
from relaxc.runtime import ffi
from relaxc.runtime.cuda import load_runtime
from relaxc.runtime.host_functions import register_host_functions

_lock = threading.Lock()
_loaded: dict[str, ctypes.CDLL] = {}
# Which build of each part of TVM's runtime this process runs, by SHA-256.
_runtime: dict[str, str] = {}


def require_this_machine(artifact: Artifact) -> None:
    """Refuse an artifact that this machine cannot run, instead of dying of an illegal instruction.

    Raises:
        TargetError: other architecture, a CPU without a needed feature, or another ABI of TVM.
    """
    needs = artifact.manifest["requirements"]
    arch = needs["architecture"]
    if arch != cpu.architecture():
        raise TargetError(
            f"`{artifact.path}` is built for {arch}, this machine is {cpu.architecture()}; "
            "compile the model for this machine"
        )
    missing = sorted(set(needs["cpu_features"]) - cpu.features())
    if missing:
        raise TargetError(
            f"`{artifact.path}` needs CPU features that this machine lacks: {', '.join(missing)}; "
            'compile it here, or for an older CPU such as `--target "llvm -mcpu=x86-64-v3"`'
        )
    built = str(artifact.manifest["versions"]["tvm_ffi"])
    major, minor, _patch = ffi.version()
    if built.split(".")[:2] != [str(major), str(minor)]:
        raise TargetError(
            f"`{artifact.path}` needs apache-tvm-ffi {built}, this machine has {major}.{minor}; "
            f"run `pip install apache-tvm-ffi=={built}`"
        )


def load_model(artifact: Artifact, cache_dir: Path | None) -> tuple[ffi.Object, ctypes.CDLL]:
    """Load the model's library and everything it needs.

    Returns:
        The executable module, and the thread pool that its parallel loops use.

    Raises:
        ArtifactError: the artifact lacks a library, or it cannot be loaded.
        TargetError: this process already runs another build of TVM.
    """
    cache = (cache_dir or default_cache_dir()) / "lib"
    if "cuda" in artifact.manifest["requirements"]:
        load_runtime()  # TVM's library for CUDA finds it by name
    with _lock:
        for name in artifact.manifest["requirements"]["runtime"]:
            _load_runtime(artifact, name, cache)
        register_host_functions()
        if "lib/patches.so" in artifact.spans:
            patches = _load(artifact, "patches.so", cache).relaxc_describe_patches
            code = ctypes.cast(patches, ctypes.c_void_p)
            ffi.set_global_function("relaxc.describe_patches", ffi.c_function(code, 0))
        pool = _load(artifact, "threadpool.so", cache)
        path = _extract(artifact, "model.so", cache)
        try:
            module = ffi.load_module(path)
        except ffi.FfiError as err:
            raise ArtifactError(
                f"the code in `{artifact.path}` cannot be loaded: {str(err).splitlines()[0]}"
            ) from err
        try:
            _use_pool(path, pool)
        except AttributeError as err:
            raise ArtifactError(
                f"`{artifact.path}` was made by another relaxc, whose thread pool this one does "
                "not know; compile the model again"
            ) from err
        return module, pool


def load_profiler(artifact: Artifact, cache_dir: Path | None) -> ctypes.CDLL:
    """Load the library that notes when calls begin and end.

    Raises:
        ArtifactError: the artifact lacks it.
    """
    with _lock:
        return _load(artifact, "profiler.so", (cache_dir or default_cache_dir()) / "lib")


def load_kernels(path: Path, pool: ctypes.CDLL) -> ffi.Object:
    """Load a library of kernels whose parallel loops use our pool.

    Args:
        path: the library, made on this machine.
        pool: the thread pool.
    """
    with _lock:
        module = ffi.load_module(path)
        _use_pool(path, pool)
        return module


def _use_pool(path: Path, pool: ctypes.CDLL) -> None:
    """Point the model's parallel loops at our pool instead of TVM's."""
    number, pointer = ctypes.c_int32, ctypes.c_void_p
    pool.relaxc_pool_call.argtypes = [number, number, *[pointer] * 3, number, pointer]
    library = ctypes.CDLL(str(path))
    for symbol, function in (
        ("__TVMBackendParallelLaunch", pool.relaxc_pool_launch),
        ("__TVMBackendParallelBarrier", pool.relaxc_pool_barrier),
    ):
        with contextlib.suppress(ValueError):  # a model without parallel loops has no such symbol
            slot = ctypes.c_void_p.in_dll(library, symbol)
            slot.value = ctypes.cast(function, ctypes.c_void_p).value


def _load_runtime(artifact: Artifact, name: str, cache: Path) -> None:
    """Load a part of TVM's runtime, from TVM itself where the same build is installed.

    Two copies of it in one process would register everything twice.
    """
    wanted = artifact.manifest["members"][f"lib/{name}"]["sha256"]
    if name not in _runtime:
        installed = _installed_tvm_library(name)
        if installed and installed.read_bytes() == bytes(artifact.member(f"lib/{name}")):
            ctypes.CDLL(str(installed), mode=ctypes.RTLD_GLOBAL)
            _runtime[name] = wanted
        elif "tvm" in sys.modules:
            _runtime[name] = "of the imported tvm"
        else:
            _load(artifact, name, cache)
            _runtime[name] = wanted
    if _runtime[name] != wanted:
        raise TargetError(
            f"`{artifact.path}` needs TVM {artifact.manifest['versions']['tvm']}, but this process "
            "already runs another build of it; load the artifact in a process of its own"
        )


def _installed_tvm_library(name: str) -> Path | None:
    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "lib" / name
    return path if path.is_file() else None


def _load(artifact: Artifact, name: str, cache: Path) -> ctypes.CDLL:
    path = _extract(artifact, name, cache)
    key = str(path)
    if key not in _loaded:
        try:
            _loaded[key] = ctypes.CDLL(key, mode=ctypes.RTLD_GLOBAL)
        except OSError as err:
            raise ArtifactError(f"`{name}` of `{artifact.path}` cannot be loaded: {err}") from err
    return _loaded[key]


def _extract(artifact: Artifact, name: str, cache: Path) -> Path:
    """Put a library where the system's loader can open it, under the hash of its contents."""
    member = f"lib/{name}"
    if member not in artifact.spans:
        raise ArtifactError(f"`{artifact.path}` lacks its library `{name}`; compile it again")
    contents = bytes(artifact.member(member))  # views compare element by element
    path = cache / f"{artifact.manifest['members'][member]['sha256']}.so"
    with contextlib.suppress(OSError):
        if path.read_bytes() == contents:
            return path
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(path) as file:
            file.write(contents)
    except OSError as err:
        raise OutputError(
            f"cannot write the library cache `{cache}`: {err.strerror}; "
            "pass another folder as cache_dir, or set XDG_CACHE_HOME"
        ) from err
    return path
