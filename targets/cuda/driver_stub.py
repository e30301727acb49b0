"""Let TVM generate CUDA code on a machine without a GPU's driver.

TVM's library for CUDA links the driver's. Where that is missing, TVM 0.27 leaves its library out
without a word, embeds CUDA source instead of machine code, and "succeeds". A stand-in for the
driver, of which every function fails with "no device", lets the library load; compiling calls none.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import tempfile
from pathlib import Path

import tvm
import tvm_ffi

from relaxc.errors import TargetError
from relaxc.targets.cuda.toolchain import find_wheel_file
from relaxc.targets.llvm.link import link_shared

_FUNCTIONS = (
    *("cuDeviceGetName", "cuFuncSetAttribute", "cuGetErrorName", "cuGetErrorString"),
    *("cuLaunchKernelEx", "cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload"),
    "cuTensorMapEncodeTiled",
)
_NO_DEVICE = 100
_DRIVER, _RUNTIME = "libcuda.so.1", "libcudart.so.13"


@functools.cache
def load_cuda_support() -> None:
    """Make TVM able to build CUDA modules in this process.

    Raises:
        TargetError: CUDA's runtime library is missing, or another version.
    """
    if tvm_ffi.get_global_func("ffi.Module.create.cuda", allow_missing=True) is not None:
        return
    try:
        _load_runtime()
        try:
            ctypes.CDLL(_DRIVER, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            _load_stub()
        library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as err:
        raise TargetError(
            f"TVM's library for CUDA cannot be loaded: {err}; it needs CUDA 13's `{_RUNTIME}`: "
            "install the toolkit, or run `pip install nvidia-cuda-runtime`"
        ) from err


def _load_runtime() -> None:
    carried = find_wheel_file(f"lib/{_RUNTIME}")
    with contextlib.suppress(OSError):
        ctypes.CDLL(_RUNTIME, mode=ctypes.RTLD_GLOBAL)
        return
    usual = Path("/usr/local/cuda/lib64", _RUNTIME)
    ctypes.CDLL(str(carried or usual), mode=ctypes.RTLD_GLOBAL)


def _load_stub() -> None:
    """Build and load the stand-in; the loader knows it by its soname from then on."""
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        source, output = Path(folder, "driver.c"), Path(folder, _DRIVER)
        lines = [f"int {name}(void) {{ return {_NO_DEVICE}; }}" for name in _FUNCTIONS]
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        triple = f"{platform.machine()}-unknown-linux-gnu"
        link_shared(output, [source], triple, ("-x", "c", "-w", f"-Wl,-soname,{_DRIVER}"))
        ctypes.CDLL(str(output), mode=ctypes.RTLD_GLOBAL)
