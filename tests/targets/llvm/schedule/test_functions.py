"""Functions in reductions, whose loops are vectors from the start, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import run_model

NUMBERS = [-95.0, -3.0, -1.0, -0.5, -1e-30, 0.0, 1e-10, 0.7, 1.0, 2.0, 88.9, 95.0, np.inf, np.nan]


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("name", ["Sinh", "Cosh"])
def test_hyperbolic_functions(name: str, kind: str) -> None:
    graph = f"""g ({kind}[14,5] x, int64[1] i) => ({kind}[14] y) {{
        s = {name}(x)
        y = ReduceMax<keepdims=0>(s, i)
    }}"""
    x = np.array(NUMBERS, np.float32 if kind == "float" else np.float64)
    (y,), _ = run_model(onnx_model(graph, 20, i=np.array([1])), {"x": np.repeat(x[:, None], 5, 1)})
    with np.errstate(over="ignore"):
        expected = getattr(np, name.lower())(x)
    np.testing.assert_allclose(y, expected, rtol=2e-6 if kind == "float" else 1e-15)
