"""CUDA C++ becomes a cubin, without a GPU."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from builders import onnx_model
from cubins import CUDA, cubins_of, instructions, local_accesses, products
from gpu import needs_cuda_compiler

import relaxc
from relaxc.artifact import read_artifact
from relaxc.errors import PassError, TargetError
from relaxc.targets.cuda import backend, toolchain
from relaxc.targets.cuda.toolchain import Nvrtc, find_compiler, find_nvrtc

SOURCE = """#include <cuda_fp16.h>
extern "C" __global__ void twice(__half* x) { x[threadIdx.x] = x[threadIdx.x] * __half(2.0f); }
"""


def check(code: bytes) -> None:
    assert code[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", code, 18)[0] == CUDA
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


def nvrtc() -> Nvrtc:
    """NVRTC, which the extra `dev` installs."""
    found = find_nvrtc()
    if found is None:
        pytest.skip("the wheels of the extra `cuda-compiler` are not installed")
    return found


def test_nvrtc_from_its_wheel() -> None:
    compiler = nvrtc()
    check(compiler.compile(SOURCE, "sm_90"))
    with pytest.raises(PassError, match="refuses generated code"):
        compiler.compile("nonsense", "sm_90")


def test_whole_models_by_nvrtc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With kernels of ours and of TVM, which include other headers."""
    model = onnx_model(
        """g (int64[64] i) => (float[64,128] y) { h = Gather(t, i)  y = MatMul(h, w) }""",
        t=np.ones((100, 64), np.float32),
        w=np.ones((64, 128), np.float32),
    )
    compiler = nvrtc()
    monkeypatch.setattr(backend, "find_compiler", lambda: compiler)
    options = relaxc.CompileOptions(target="cuda -arch=sm_90", precision="float16")
    relaxc.compile(model, tmp_path / "x.rxc", options)
    artifact = read_artifact(tmp_path / "x.rxc")
    assert artifact.manifest["versions"]["cuda_compiler"] == compiler.name
    assert compiler.name.startswith("nvrtc 13.")
    cubins = cubins_of(bytes(artifact.member("lib/model.so")))
    found = {name.split("_")[0]: c for cubin in cubins for name, c in instructions(cubin).items()}
    assert {"matmul", "take"} <= set(found)
    assert products(found["matmul"]) and not local_accesses(found["matmul"])


def test_nvrtc_without_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr(toolchain, "_USUAL", tmp_path / "nvcc")
    there = {"lib/libnvrtc.so.13", "include/cuda_fp16.h"}
    monkeypatch.setattr(
        toolchain, "find_wheel_file", lambda name: tmp_path / name if name in there else None
    )
    message = "not its headers, `nvidia-cuda-cccl`, `nvidia-cuda-crt`; run `pip"
    with pytest.raises(TargetError, match=message):
        find_compiler.__wrapped__()


@pytest.mark.parametrize("is_there", [False, True])
def test_an_older_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_there: bool) -> None:
    """It is passed over where NVRTC is; else the message names it."""
    path = tmp_path / "nvcc"
    path.write_text("#!/bin/sh\necho Cuda compilation tools, release 12.4, V12.4.131\n")
    path.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _name: str(path))
    monkeypatch.setattr(
        toolchain, "find_wheel_file", lambda name: tmp_path / name if is_there else None
    )
    if is_there:
        assert isinstance(find_compiler.__wrapped__(), Nvrtc)
        return
    with pytest.raises(TargetError, match="`.*nvcc` is nvcc 12.4, but CUDA 13 is needed; run `pip"):
        find_compiler.__wrapped__()


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr(toolchain, "_USUAL", tmp_path / "nvcc")
    monkeypatch.setattr(toolchain, "find_wheel_file", lambda _name: None)
    with pytest.raises(TargetError, match="no CUDA compiler found; put `nvcc` .* or run"):
        find_compiler.__wrapped__()
