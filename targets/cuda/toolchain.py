"""Compile CUDA C++ for a GPU: with nvcc, or with NVRTC out of its wheels. Neither needs a GPU."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from relaxc.errors import PassError, TargetError
from relaxc.targets.run_tool import run_tool

# No fast math: it turns `pow` of negative numbers into NaN, and denormals into zeros.
_FLAGS = ("-std=c++17", "-w")
_USUAL = Path("/usr/local/cuda/bin/nvcc")
_MAJOR = 13
_INSTALL = 'run `pip install "relaxc[cuda-compiler]"`'
_NVRTC, _RUNTIME = "nvidia-cuda-nvrtc", "nvidia-cuda-runtime"
# Each of the wheels, with a file by which it is known: the compiler, headers of halves, the
# integers that TVM's kernels take from there, and what the headers include.
_WHEELS = {
    _NVRTC: f"lib/libnvrtc.so.{_MAJOR}",
    _RUNTIME: "include/cuda_fp16.h",
    "nvidia-cuda-cccl": "include/cccl/cuda/std/cstdint",
    "nvidia-cuda-crt": "include/crt/mma.h",
}
_HALF_OPERATORS = tuple(
    f"-U__CUDA_NO_{name}__"
    for name in (
        *("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS"),
        *("BFLOAT16_OPERATORS", "BFLOAT16_CONVERSIONS", "BFLOAT162_OPERATORS"),
    )
)


class CudaCompiler(Protocol):
    """Turns CUDA C++ into the machine code of one architecture."""

    @property
    def name(self) -> str:
        """Which one it is, with its version, for the manifest."""

    def compile(self, source: str, arch: str) -> bytes:
        """Return a cubin.

        Raises:
            PassError: the source is not valid; it is ours, so that is a bug.
        """


@functools.cache
def find_compiler() -> CudaCompiler:
    """The CUDA compiler of this machine: nvcc, if it is recent enough, else NVRTC.

    Raises:
        TargetError: there is none, or a part of it is missing.
    """
    path = Path(shutil.which("nvcc") or _USUAL)
    nvcc = Nvcc(path) if path.is_file() else None
    if nvcc is not None and nvcc.version >= (_MAJOR,):
        return nvcc
    nvrtc = find_nvrtc()
    if nvrtc is not None:
        return nvrtc
    if nvcc is not None:
        raise TargetError(f"`{path}` is {nvcc.name}, but CUDA {_MAJOR} is needed; {_INSTALL}")
    raise TargetError(
        f"no CUDA compiler found; put `nvcc` of CUDA {_MAJOR} on the PATH, or {_INSTALL}"
    )


def find_nvrtc() -> Nvrtc | None:
    """NVRTC, if its wheel is installed.

    Raises:
        TargetError: wheels with headers that it needs are not.
    """
    found = {wheel: find_wheel_file(name) for wheel, name in _WHEELS.items()}
    library, headers = found[_NVRTC], found[_RUNTIME]
    if library is None:
        return None
    missing = ", ".join(f"`{wheel}`" for wheel, path in found.items() if path is None)
    if headers is None or missing:
        raise TargetError(f"NVRTC is installed, but not its headers, {missing}; {_INSTALL}")
    return Nvrtc(library, headers.parent)


def find_wheel_file(name: str) -> Path | None:
    """A file of NVIDIA's CUDA 13 wheels, if it is installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    paths = (Path(folder, f"cu{_MAJOR}", name) for folder in folders)
    return next((path for path in paths if path.is_file()), None)


class Nvcc:
    """The compiler driver of the CUDA toolkit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Such as `nvcc 13.0`."""
        return "nvcc " + (".".join(map(str, self.version)) or "of an unknown version")

    @functools.cached_property
    def version(self) -> tuple[int, ...]:
        """Major and minor; nothing if it does not say."""
        with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
            said = run_tool([str(self.path), "--version"], Path(folder)).stdout
        found = re.search(r"release (\d+)\.(\d+)", said)
        return tuple(map(int, found.groups())) if found else ()

    def compile(self, source: str, arch: str) -> bytes:
        """Run nvcc in a folder of its own."""
        with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
            Path(folder, "kernels.cu").write_text(source, encoding="utf-8")
            command = [str(self.path), "-cubin", f"-arch={arch}", "-O3", *_FLAGS]
            command += ["--expt-relaxed-constexpr", *_HALF_OPERATORS]
            # Relative names: no path of this machine gets into the code.
            done = run_tool([*command, "-o", "kernels.cubin", "kernels.cu"], Path(folder))
            if done.returncode:
                raise _failed(str(self.path), done.stderr or done.stdout)
            return Path(folder, "kernels.cubin").read_bytes()


class Nvrtc:
    """The compiler library, with headers, as NVIDIA's wheels have them."""

    def __init__(self, library: Path, headers: Path) -> None:
        self.library = library
        self.headers = headers

    @property
    def name(self) -> str:
        """Such as `nvrtc 13.5`."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._loaded.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"nvrtc {major.value}.{minor.value}"

    @functools.cached_property
    def _loaded(self) -> ctypes.CDLL:
        try:
            # It looks for its other half by name.
            for part in sorted(self.library.parent.glob("libnvrtc-builtins.so*")):
                ctypes.CDLL(str(part))
            return ctypes.CDLL(str(self.library))
        except OSError as err:
            raise TargetError(f"NVRTC cannot be loaded: {err}; {_INSTALL} again") from err

    def compile(self, source: str, arch: str) -> bytes:
        """Compile in this process."""
        lib, program = self._loaded, ctypes.c_void_p()
        text = source.encode()
        status = lib.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
        if status:
            raise TargetError(f"`{self.library}` fails to start (error {status})")
        flags = [*_FLAGS, *_HALF_OPERATORS, "-default-device", f"-arch={arch}"]
        flags += [f"-I{self.headers}", f"-I{self.headers / 'cccl'}"]
        options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        try:
            if lib.nvrtcCompileProgram(program, len(flags), options):
                raise _failed(str(self.library), self._log(lib, program))
            size = ctypes.c_size_t()
            lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
            code = ctypes.create_string_buffer(size.value)
            lib.nvrtcGetCUBIN(program, code)
            return code.raw
        finally:
            lib.nvrtcDestroyProgram(ctypes.byref(program))

    @staticmethod
    def _log(lib: ctypes.CDLL, program: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        lib.nvrtcGetProgramLog(program, text)
        return text.value.decode(errors="replace")


def _failed(compiler: str, log: str) -> PassError:
    lines = [line for line in log.splitlines() if "error" in line]
    first = (lines or log.strip().splitlines() or ["no message"])[0]
    return PassError(f"`{compiler}` refuses generated code: {first}; this is a bug of relaxc")
