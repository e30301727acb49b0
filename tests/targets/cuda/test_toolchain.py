"""CUDA C++ becomes a cubin, without a GPU."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gpu import needs_cuda_compiler

from relaxc.errors import PassError, TargetError
from relaxc.targets.cuda import toolchain
from relaxc.targets.cuda.toolchain import Nvrtc, find_compiler, find_wheel_file

ELF_CUDA = 190
SOURCE = """#include <cuda_fp16.h>
extern "C" __global__ void twice(__half* x) { x[threadIdx.x] = x[threadIdx.x] * __half(2.0f); }
"""


def check(code: bytes) -> None:
    assert code[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", code, 18)[0] == ELF_CUDA
    assert b"twice" in code


@needs_cuda_compiler
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_a_cubin(arch: str) -> None:
    check(find_compiler().compile(SOURCE, arch))


@needs_cuda_compiler
def test_equal_sources_give_equal_code() -> None:
    compiler = find_compiler()
    assert compiler.compile(SOURCE, "sm_90") == compiler.compile(SOURCE, "sm_90")


@needs_cuda_compiler
def test_a_source_that_does_not_compile_is_our_bug() -> None:
    with pytest.raises(PassError, match="refuses generated code: .*error.*bug of relaxc"):
        find_compiler().compile("__global__ void f() { nonsense; }", "sm_90")


def test_nvrtc_from_its_wheel() -> None:
    library, headers = find_wheel_file("lib/libnvrtc.so.13"), find_wheel_file("include/cuda_fp16.h")
    if library is None or headers is None:
        pytest.skip("the wheels nvidia-cuda-nvrtc and nvidia-cuda-runtime are not installed")
    compiler = Nvrtc(library, headers.parent)
    check(compiler.compile(SOURCE, "sm_90"))
    with pytest.raises(PassError, match="refuses generated code"):
        compiler.compile("nonsense", "sm_90")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr(toolchain, "_USUAL", tmp_path / "nvcc")
    monkeypatch.setattr(toolchain, "find_wheel_file", lambda _name: None)
    with pytest.raises(TargetError, match="no CUDA compiler found; put `nvcc` .* or run"):
        find_compiler.__wrapped__()
