"""Long loops stay loops."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import onnx_model

import relaxc


@pytest.mark.parametrize("rows", [1 << 30, (1 << 31) - 1])
def test_a_long_reduction_compiles(rows: int, tmp_path: Path) -> None:
    """It would take minutes, and all memory."""
    model = onnx_model(
        f"g (float[{rows},1,13,3] x) => (int64[a,b,c] y) {{ y = ArgMax <axis=0, keepdims=0> (x) }}"
    )
    relaxc.compile(model, tmp_path / "m.rxc")
