"""Gelu in its spellings, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_node import check_node

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 8)).astype(np.float32) * 2
BIAS = RNG.standard_normal(8).astype(np.float32)
OUT = {"y": np.float32}
ROWS = {"x": {0: "n"}}


def test_gelu() -> None:
    check_node("Gelu", {"x": X}, OUT, symbols=ROWS)


def test_bias_gelu() -> None:
    check_node("BiasGelu", {"x": X, "b": BIAS}, OUT, constants=["b"], symbols=ROWS)


@pytest.mark.parametrize("bias", [None, BIAS])
def test_fast_gelu(bias: np.ndarray | None) -> None:
    check_node("FastGelu", {"x": X, "b": bias}, OUT, symbols=ROWS)


@pytest.mark.parametrize("attrs", [{}, {"alpha": 1.0}])
def test_quick_gelu(attrs: dict[str, Any]) -> None:
    check_node("QuickGelu", {"x": X}, OUT, symbols=ROWS, **attrs)
