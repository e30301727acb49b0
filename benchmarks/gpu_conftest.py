"""Stands in for tests/conftest.py where TVM is not: artifacts lie ready (see gpu_suite.py).

With `--prepare`, where TVM is and no GPU, every test runs as far as its first artifact.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODELS = Path(__file__).resolve().parent / "models"
ARTIFACTS = Path(os.environ["RELAXC_ARTIFACTS"])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Whether artifacts are made, and for which GPU."""
    parser.addoption("--prepare", metavar="ARCH")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What skips tests here, for want of a GPU, must not skip their preparation."""
    if config.getoption("--prepare"):
        for node in {node for item in items for node in item.listchain()}:
            node.own_markers = [mark for mark in node.own_markers if mark.name != "skipif"]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests' libraries out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def compiled(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """The artifact of a model."""
    arch = request.config.getoption("--prepare")

    def run(model: Any, **options: Any) -> Path:
        path = ARTIFACTS / f"{_key(model, options)}.rxc"
        if arch:
            import relaxc

            target = {"target": f"cuda -arch={arch}"}
            relaxc.compile(model, path, relaxc.CompileOptions(**{**options, **target}))
            pytest.skip("prepared")
        assert path.exists(), "a test's second artifact must be that of another test as well"
        return path

    return run


def _key(model: Any, options: dict[str, Any]) -> str:
    """Equal for the same model and options, with any version of ONNX."""
    is_path = isinstance(model, Path)
    data = model.read_bytes() if is_path else model.graph.SerializeToString(deterministic=True)
    return hashlib.sha256(data + repr(sorted(options.items())).encode()).hexdigest()[:16]
