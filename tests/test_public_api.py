"""What `import relaxc` offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import relaxc


def test_every_public_name_exists() -> None:
    for name in relaxc.__all__:
        assert getattr(relaxc, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        _ = relaxc.nosuch


def test_public_names_are_listed_for_completion() -> None:
    assert set(relaxc.__all__) <= set(dir(relaxc))


def test_importing_relaxc_imports_next_to_nothing() -> None:
    """So that the command line handles Ctrl-C from the start."""
    names = "('tvm', 'onnx', 'tvm_ffi', 'numpy', 'click')"
    code = f"import relaxc.cli, sys; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_of_the_package() -> None:
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    assert f'version = "{relaxc.__version__}"' in text
