"""Compile CUDA C++ for a GPU: with nvcc, or with NVRTC out of its wheel. Neither needs a GPU."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from relaxc.errors import PassError, TargetError
from relaxc.targets.run_tool import run_tool

# No fast math: it turns `pow` of negative numbers into NaN, and denormals into zeros.
_FLAGS = ("-std=c++17", "-w")
_USUAL = Path("/usr/local/cuda/bin/nvcc")
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
        """What and where it is, for messages and the manifest."""

    def compile(self, source: str, arch: str) -> bytes:
        """Return a cubin.

        Raises:
            PassError: the source is not valid; it is ours, so that is a bug.
        """


@functools.cache
def find_compiler() -> CudaCompiler:
    """The CUDA compiler of this machine.

    Raises:
        TargetError: there is none.
    """
    nvcc = shutil.which("nvcc")
    if nvcc or _USUAL.is_file():
        return Nvcc(Path(nvcc or _USUAL))
    library = find_wheel_file("lib/libnvrtc.so.13")
    headers = find_wheel_file("include/cuda_fp16.h")
    if library and headers:
        return Nvrtc(library, headers.parent)
    raise TargetError(
        "no CUDA compiler found; put `nvcc` of CUDA 13 on the PATH, "
        'or run `pip install "relaxc[cuda-compiler]"`'
    )


def find_wheel_file(name: str) -> Path | None:
    """A file of NVIDIA's CUDA 13 wheels, if it is installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    paths = (Path(folder, "cu13", name) for folder in folders)
    return next((path for path in paths if path.is_file()), None)


class Nvcc:
    """The compiler driver of the CUDA toolkit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Where it is."""
        return "nvcc"

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
    """The compiler library, as the wheels `nvidia-cuda-nvrtc` and `nvidia-cuda-runtime` have it."""

    def __init__(self, library: Path, headers: Path) -> None:
        self.library = library
        self.headers = headers

    @property
    def name(self) -> str:
        """Where it is."""
        return "nvrtc"

    def compile(self, source: str, arch: str) -> bytes:
        """Compile in this process."""
        # It looks for its other half by name.
        for part in sorted(self.library.parent.glob("libnvrtc-builtins.so*")):
            ctypes.CDLL(str(part))
        lib = ctypes.CDLL(str(self.library))
        program = ctypes.c_void_p()
        text = source.replace("#include <cuda.h>\n", "").encode()
        status = lib.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
        if status:
            raise TargetError(f"`{self.library}` fails to start (error {status})")
        flags = [*_FLAGS, *_HALF_OPERATORS, "-default-device", f"-arch={arch}"]
        flags.append(f"-I{self.headers}")
        if (self.headers / "cccl").is_dir():
            flags.append(f"-I{self.headers / 'cccl'}")
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
