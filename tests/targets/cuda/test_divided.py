"""Models are compiled for several GPUs, without one: one artifact with all of their parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import conv_model, onnx_model
from gpu import has_gpu, needs_cuda_compiler

import relaxc
from relaxc import sharding
from relaxc.artifact import Artifact, read_artifact
from relaxc.errors import ArtifactError, OptionError, TargetError
from relaxc.options import PruneOptions, QuantizeOptions
from relaxc.runtime.peers import communicator_offset

OPTIONS = relaxc.CompileOptions(target="cuda -arch=sm_90", tensor_parallel=2)


def feed_forward(rows: str = "4") -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 24), (24, 16)))
    graph = f"g (float[{rows},16] x) => (float[{rows},16] y) {{"
    graph += "a = MatMul(x, up)  b = Relu(a)  y = MatMul(b, down) }"
    return onnx_model(graph, up=up, down=down)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("divided") / "model.rxc"
    relaxc.compile(feed_forward(), path, OPTIONS)
    return read_artifact(path)


@needs_cuda_compiler
def test_parts_share_code_and_have_their_own_weights(artifact: Artifact) -> None:
    members = set(artifact.manifest["members"])
    assert {"lib/model.so", "pieces/0/weights.bin", "pieces/1/weights.bin"} <= members
    assert not any(name.endswith("/lib/model.so") for name in members)
    divided = artifact.manifest["tensor_parallel"]
    assert divided["inputs"] == {} and divided["outputs"] == {}
    assert artifact.manifest["options"]["tensor_parallel"] == 2
    sizes = [sum(w["size_bytes"] for w in piece["weights"]) for piece in divided["pieces"]]
    assert artifact.manifest["memory"]["weight_bytes"] == sum(sizes)
    assert [communicator_offset(artifact.piece(rank)) >= 0 for rank in (0, 1)] == [True, True]


@needs_cuda_compiler
def test_parts_whose_code_differs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sharding, "_is_same", lambda _a, _b: False)
    relaxc.compile(feed_forward(), tmp_path / "x.rxc", OPTIONS)
    found = read_artifact(tmp_path / "x.rxc")
    own = found.member("pieces/1/lib/model.so")
    assert found.piece(1).member("lib/model.so") == own
    assert found.piece(0).member("lib/model.so") == found.member("lib/model.so")


@needs_cuda_compiler
def test_an_artifact_without_a_communicator(artifact: Artifact) -> None:
    piece = artifact.piece(0)
    others = {**piece.manifest, "weights": []}
    with pytest.raises(ArtifactError, match="was made by another relaxc, whose GPUs meet"):
        communicator_offset(replace(piece, manifest=others))


@needs_cuda_compiler
def test_it_needs_as_many_gpus(artifact: Artifact) -> None:
    with pytest.raises(OptionError, match=r"among 2 GPUs, not 1; load it with device `cuda:0,1`"):
        relaxc.load(artifact.path, device="cuda:1")
    with pytest.raises(OptionError, match="is divided among 2 GPUs, not 3"):
        relaxc.load(artifact.path, device="cuda:0,1,2")
    with pytest.raises(OptionError, match="is compiled for `cuda`, not for `cpu`"):
        relaxc.load(artifact.path, device="cpu")


@needs_cuda_compiler
@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_says_so(artifact: Artifact) -> None:
    with pytest.raises(TargetError, match="needs an NVIDIA GPU, but"):
        relaxc.load(artifact.path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "llvm"}, r"divides a model among GPUs, but the target is `llvm`"),
        ({"quantize": QuantizeOptions(scheme="int8-weights")}, "quantization is not supported for"),
        ({"prune": PruneOptions(saving="macs", share=0.3)}, "pruning is not supported for models"),
        ({"precision": "float8"}, "precision `float8` is not supported for models"),
    ],
)
def test_what_is_not_divided(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        relaxc.compile(feed_forward(), tmp_path / "x.rxc", replace(OPTIONS, **options))  # type: ignore[arg-type]


def test_models_that_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nothing in this model can be divided among 2 GPUs"):
        relaxc.compile(conv_model(), tmp_path / "x.rxc", OPTIONS)
    with pytest.raises(OptionError, match=r"`x` has dimensions that are open"):
        relaxc.compile(feed_forward("n"), tmp_path / "x.rxc", OPTIONS)


@pytest.mark.parametrize("ranks", [0, 9])
def test_numbers_of_gpus(ranks: int) -> None:
    with pytest.raises(OptionError, match=f"a model is divided among up to 8 GPUs, not {ranks}"):
        relaxc.CompileOptions(tensor_parallel=ranks)
