"""compile(): choosing passes, failing early, telling what happened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from builders import conv_model, dense_model, relu_model
from tvm import IRModule

import relaxc
from relaxc.artifact import read_artifact
from relaxc.compiler import compile, require_writable
from relaxc.errors import ModelError, OptionError, OutputError, PassError
from relaxc.options import CompileOptions, Diagnostics
from relaxc.pass_runner import select_passes
from relaxc.passes.base import Pass


@dataclass(frozen=True)
class Optional(Pass):
    name: ClassVar[str] = "optional"
    opt_level: ClassVar[int] = 2

    def apply(self, mod: IRModule) -> IRModule:
        return mod


@dataclass(frozen=True)
class Required(Optional):
    name: ClassVar[str] = "required"
    required: ClassVar[bool] = True


@dataclass(frozen=True)
class Crashing(Required):
    name: ClassVar[str] = "crashing"

    def apply(self, mod: IRModule) -> IRModule:
        raise IndexError("out of range\nsecond line")


def selected(options: CompileOptions, diagnostics: Diagnostics | None = None) -> list[str]:
    passes = [Optional(), Required()]
    return [p.name for p in select_passes(passes, options, diagnostics or Diagnostics())]


def test_levels_choose_passes() -> None:
    assert selected(CompileOptions(opt_level=2)) == ["optional", "required"]
    assert selected(CompileOptions(opt_level=1)) == ["required"]
    assert selected(CompileOptions(disabled_passes=("optional",))) == ["required"]


def test_a_required_pass_cannot_be_disabled() -> None:
    with pytest.raises(OptionError, match="pass `required` cannot be disabled"):
        selected(CompileOptions(disabled_passes=("required",)))


def test_unknown_passes_are_refused_everywhere() -> None:
    message = r"unknown pass `optonal` \(did you mean `optional`\?\); passes are `optional`, `req"
    with pytest.raises(OptionError, match=message):
        selected(CompileOptions(disabled_passes=("optonal",)))
    with pytest.raises(OptionError, match=message):
        selected(CompileOptions(), Diagnostics(print_ir_after=("optonal",)))


def test_a_pass_that_crashes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relaxc.preparing.default_passes", lambda *_args, **_options: [Crashing()])
    message = "pass `crashing` failed: .*out of range; this is a bug of relaxc, please report"
    with pytest.raises(PassError, match=message):
        compile(relu_model(), tmp_path / "a.rxc")
    assert list(tmp_path.iterdir()) == []


def test_a_backend_that_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_args: object) -> None:
        raise RuntimeError("no registers left")

    monkeypatch.setattr("relaxc.targets.llvm.backend.LlvmBackend.build", crash)
    with pytest.raises(PassError, match="code generation failed: no registers left; this is a bug"):
        compile(relu_model(), tmp_path / "a.rxc")


def test_the_output_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder; give a file name"):
        require_writable(tmp_path)
    with pytest.raises(OutputError, match="it is not a regular file; give a file name"):
        require_writable(Path(os.devnull))
    with pytest.raises(OutputError, match="folder `.*nosuch` does not exist"):
        require_writable(tmp_path / "nosuch" / "a.rxc")


def test_the_model_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the user's")
    with pytest.raises(OptionError, match="is the model itself; give another name with `-o`"):
        relaxc.compile(path, tmp_path / "." / "model.onnx")
    assert path.read_bytes() == b"the user's"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_args: False)  # root may write everywhere
    with pytest.raises(OutputError, match=r"folder `.*` is not writable"):
        require_writable(tmp_path / "a.rxc")


def test_an_existing_artifact_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.rxc"
    compile(relu_model(), path)
    before = path.read_bytes()
    with pytest.raises(ModelError):
        compile(tmp_path / "nosuch.onnx", path)
    assert path.read_bytes() == before


def test_the_result_tells_what_happened(tmp_path: Path) -> None:
    phases: list[str] = []
    result = compile(
        conv_model(), tmp_path / "a.rxc", diagnostics=Diagnostics(on_phase=phases.append)
    )
    assert phases == list(result.seconds) == ["import", "passes", "codegen", "write"]
    assert result.path == tmp_path / "a.rxc"
    assert "fold-batch-norm" in [record.name for record in result.passes]
    assert result.manifest == read_artifact(result.path).manifest


def test_the_manifest_is_complete(conv_artifact: Path) -> None:
    manifest = read_artifact(conv_artifact).manifest
    assert manifest["model"]["opset"] == 18
    assert len(manifest["model"]["sha256"]) == 64
    described = {"name": "x", "dtype": "float32", "shape": [1, 3, 8, 8]}
    assert manifest["inputs"] == [described | {"any_alignment": True}]
    assert manifest["outputs"] == [{"name": "y", "dtype": "float32", "shape": [1, 4, 1, 1]}]
    assert set(manifest["versions"]) == {"relaxc", "tvm", "tvm_ffi"}
    assert {"architecture", "cpu_features", "runtime"} <= set(manifest["requirements"])
    assert manifest["measured"] == {"latency_ms": None, "accuracy": None}
    assert manifest["options"]["opt_level"] == 3
    assert "licenses/TVM-LICENSE.txt" in manifest["members"]


def test_weights_are_stored_once(tmp_path: Path) -> None:
    compile(dense_model(64, 8000), tmp_path / "a.rxc")
    opened = read_artifact(tmp_path / "a.rxc")
    weights = opened.spans["weights.bin"][1]
    assert 64 * 8000 * 4 <= weights < 64 * 8000 * 4 * 1.1
    assert opened.spans["lib/model.so"][1] < weights / 4


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_every_level_gives_the_same_numbers(tmp_path: Path, level: int) -> None:
    import numpy as np
    import onnxruntime

    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        conv_model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    relaxc.compile(conv_model(), tmp_path / "a.rxc", CompileOptions(opt_level=level))
    expected = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(relaxc.load(tmp_path / "a.rxc")(x), expected, rtol=1e-4, atol=1e-5)
