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


def test_importing_relaxc_imports_no_compiler() -> None:
    code = "import relaxc, sys; print([m for m in ('tvm', 'onnx', 'tvm_ffi') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_of_the_package() -> None:
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    assert f'version = "{relaxc.__version__}"' in text
