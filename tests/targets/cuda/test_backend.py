"""Artifacts for GPUs, made on machines without one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import conv_model, onnx_model
from gpu import has_gpu, needs_cuda_compiler

import relaxc
from relaxc.artifact import Artifact, read_artifact
from relaxc.errors import OptionError, TargetError
from relaxc.options import QuantizeOptions
from relaxc.runtime import ffi
from relaxc.targets.cuda.kernels import tilings
from relaxc.targets.cuda.kernels.tilings import Tiling

pytestmark = needs_cuda_compiler
TARGET = "cuda -arch=sm_90"
ELF, ELF_CUDA = b"\x7fELF", (190).to_bytes(2, "little")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("cuda") / "conv.rxc"
    relaxc.compile(conv_model(), path, relaxc.CompileOptions(target=TARGET))
    return read_artifact(path)


def test_the_library_holds_machine_code_and_no_source(artifact: Artifact) -> None:
    library = bytes(artifact.member("lib/model.so"))
    starts = [i for i in range(1, len(library)) if library.startswith(ELF, i)]
    assert any(library[i + 18 : i + 20] == ELF_CUDA for i in starts)
    assert b"__global__" not in library


def test_it_carries_tvms_library_for_cuda(artifact: Artifact) -> None:
    assert "lib/libtvm_runtime_cuda.so" in artifact.spans
    assert "libtvm_runtime_cuda.so" in artifact.manifest["requirements"]["runtime"]


def test_what_describes_patches_is_carried_where_they_are_fetched(
    artifact: Artifact, tmp_path: Path
) -> None:
    assert "lib/patches.so" not in artifact.spans
    model = onnx_model(
        "g (float[1,64,8,8] x) => (float[1,64,h,w] y) { y = Conv<pads=[1,1,1,1]>(x, w) }",
        w=np.ones((64, 64, 3, 3), np.float32),
    )
    patches = Tiling(64, 64, 64, 64, 4, True, 1, 1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tilings, "choose_tiling", lambda *_args, **_options: patches)
        options = relaxc.CompileOptions(target=TARGET, precision="float16")
        relaxc.compile(model, tmp_path / "patches.rxc", options)
    library = Path(tmp_path, "patches.so")
    library.write_bytes(read_artifact(tmp_path / "patches.rxc").member("lib/patches.so"))
    describe = ctypes.cast(ctypes.CDLL(str(library)).relaxc_describe_patches, ctypes.c_void_p)
    with pytest.raises(ffi.FfiError, match="patches have 15 properties"):
        ffi.call(ffi.c_function(describe, 0), 1)


def test_the_manifest_says_what_it_needs(artifact: Artifact) -> None:
    assert artifact.manifest["requirements"]["cuda"] == {
        "arch": "sm_90",
        "driver": "13.0",
        "replayable": True,
    }
    assert artifact.manifest["target"]["kind"] == "cuda"
    assert artifact.manifest["target"]["arch"] == "sm_90"
    assert artifact.manifest["target"]["host"]["mcpu"] == "x86-64-v3"


def test_equal_models_give_equal_artifacts(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "again.rxc"
    relaxc.compile(conv_model(), path, relaxc.CompileOptions(target=TARGET))
    assert path.read_bytes() == artifact.path.read_bytes()


def test_the_dump_shows_the_source(tmp_path: Path) -> None:
    diagnostics = relaxc.Diagnostics(dump_dir=tmp_path / "dump")
    options = relaxc.CompileOptions(target=TARGET)
    relaxc.compile(conv_model(), tmp_path / "x.rxc", options, diagnostics)
    assert "__global__" in (tmp_path / "dump" / "assembly.s").read_text()


@pytest.mark.parametrize(
    ("arch", "scheme"),
    [("sm_80", "int4-weights"), ("sm_90", "int8-dynamic"), ("sm_90", "fp8-weights")],
)
def test_schemes_without_kernels_are_refused(tmp_path: Path, arch: str, scheme: Any) -> None:
    quantize = QuantizeOptions(scheme=scheme)
    options = relaxc.CompileOptions(target=f"cuda -arch={arch}", quantize=quantize)
    with pytest.raises(OptionError, match=f"`{scheme}` is not for target `cuda -arch={arch}`"):
        relaxc.compile(conv_model(), tmp_path / "x.rxc", options)


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_says_so(artifact: Artifact) -> None:
    with pytest.raises(TargetError, match="needs an NVIDIA GPU, but"):
        relaxc.load(artifact.path)


def test_it_runs_nowhere_else(artifact: Artifact) -> None:
    with pytest.raises(OptionError, match="is compiled for `cuda`, not for `cpu`"):
        relaxc.load(artifact.path, device="cpu")


def test_a_cpu_artifact_runs_on_no_gpu(compiled: Callable[..., Path]) -> None:
    with pytest.raises(OptionError, match="is compiled for `cpu`, not for `cuda:1`"):
        relaxc.load(compiled(conv_model()), device="cuda:1")
