"""Operators of any number of tensors, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model


@pytest.mark.parametrize("operator", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("inputs", ["x", "x, y", "x, y, z"])
def test_any_number_of_tensors(operator: str, inputs: str) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        f"""g (float[n,4] x, float[1,4] y, float[4] z) => (float[n,4] o) {{
            o = {operator} ({inputs})
        }}"""
    )
    feed = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("x", (3, 4)), ("y", (1, 4)), ("z", (4,)))
    }
    check_model(model, feed)
