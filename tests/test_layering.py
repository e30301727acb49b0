"""Who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEAVES = {"errors", "cpu", "layout", "replacing", "cache", "communicator"}
MAY_IMPORT = {
    "frontend": {"frontend", "recurrent", *LEAVES},
    "passes": {"passes", "recurrent", *LEAVES},
    "targets": {"targets", *LEAVES},
    "src/relaxc/runtime": {"runtime", "artifact", *LEAVES},
    "src/relaxc/recurrent": {"recurrent"},
    "src/relaxc/artifact.py": LEAVES,
    "src/relaxc/errors.py": set(),
    "src/relaxc/cpu.py": {"errors"},
    "src/relaxc/layout.py": {"errors"},
    "src/relaxc/replacing.py": set(),
    "src/relaxc/cache.py": set(),
    "src/relaxc/communicator.py": set(),
    "src/relaxc/options.py": {"distill_options", "quantize_options", *LEAVES},
    "src/relaxc/quantize_options.py": {"distill_options", *LEAVES},
    "src/relaxc/distill_options.py": LEAVES,
}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "relaxc":
            yield from ((node.lineno, f"relaxc.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def files(where: str) -> list[Path]:
    place = ROOT / where
    found = [place] if place.suffix == ".py" else sorted(place.rglob("*.py"))
    assert found, f"{where} holds no code"
    return found


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_downward(layer: str) -> None:
    for path in files(layer):
        for line, name in imported(path):
            if name.startswith("relaxc."):
                assert name.split(".")[1] in MAY_IMPORT[layer], f"{path}:{line} imports {name}"


@pytest.mark.parametrize(
    "layer", ["src/relaxc/runtime", "src/relaxc/artifact.py", "src/relaxc/cpu.py"]
)
def test_running_a_model_needs_neither_tvm_nor_onnx(layer: str) -> None:
    for path in files(layer):
        for line, name in imported(path):
            top = name.split(".")[0]
            assert top not in {"tvm", "tvm_ffi", "onnx", "click", "rich"}, f"{path}:{line}: {name}"


def test_passes_know_nothing_of_onnx() -> None:
    for path in files("passes"):
        assert all(name.split(".")[0] != "onnx" for _, name in imported(path)), path
