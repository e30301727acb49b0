"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from builders import conv_model, relu_model
from tvm import IRModule, relax
from virtual_machine import virtual_machine

import relaxc
from relaxc.passes.base import Pass

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "examples" / "models"


def check_pass(
    pass_: Pass, before: IRModule, expected: IRModule, *, idempotent: bool = True
) -> None:
    """Rewrites as expected, well-formed, idempotent, and without touching its input."""
    text = before.script()
    after = pass_.apply(before)
    relax.analysis.well_formed(after)
    tvm.ir.assert_structural_equal(after, expected)
    if idempotent:
        tvm.ir.assert_structural_equal(pass_.apply(after), after)
    assert before.script() == text, f"{pass_.name} changed its input"


def run_module(mod: IRModule, *inputs: np.ndarray) -> np.ndarray:
    """Build with TVM's defaults and run `main`."""
    vm = virtual_machine(mod)
    result = vm["main"](*(tvm.runtime.tensor(array) for array in inputs))
    return np.asarray(result.numpy())


@pytest.fixture
def golden() -> Callable[..., None]:
    return check_pass


@pytest.fixture
def execute() -> Callable[..., np.ndarray]:
    return run_module


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep the tests' libraries out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Path]:
    """Compile a model into a new artifact."""

    def run(model: onnx.ModelProto | Path, **options: object) -> Path:
        path = tmp_path / f"{len(list(tmp_path.glob('*.rxc')))}.rxc"
        relaxc.compile(model, path, relaxc.CompileOptions(**options))  # type: ignore[arg-type]
        return path

    return run


@pytest.fixture(scope="session")
def relu_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact without weights, with a symbolic dimension."""
    path = tmp_path_factory.mktemp("relu") / "relu.rxc"
    relaxc.compile(relu_model(), path)
    return path


@pytest.fixture(scope="session")
def conv_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with weights."""
    path = tmp_path_factory.mktemp("conv") / "conv.rxc"
    relaxc.compile(conv_model(), path)
    return path


@pytest.fixture(scope="session")
def conv_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `conv_artifact` as a file."""
    path = tmp_path_factory.mktemp("onnx") / "conv.onnx"
    onnx.save(conv_model(), path)
    return path


@pytest.fixture(scope="session")
def mnist_onnx() -> Path:
    """A real trained model."""
    return MODELS / "mnist_cnn" / "mnist.onnx"
