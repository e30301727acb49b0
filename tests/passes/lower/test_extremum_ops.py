"""Extrema of infinities."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model

from relaxc.measure.conformance import run


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_the_extremum_of_infinities_is_infinite(op: str, axes: tuple[int, ...]) -> None:
    value = np.float32(-np.inf if op == "ReduceMax" else np.inf)
    x = np.full((3, 4), value)
    x[1, 2] = 5
    graph = f"g (float[n,4] x) => (float y) {{ y = {op}(x, axes) }}"
    (result,) = run(onnx_model(graph, axes=np.array(axes)), [x])
    pick = np.max if op == "ReduceMax" else np.min
    wanted = pick(x, axis=axes, keepdims=True)
    np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("width", [4, 40])
def test_the_softmax_of_nothing_is_not_a_number(width: int) -> None:
    x = np.zeros((3, width), np.float32)
    x[1] = -np.inf
    x[2, 1:] = -np.inf
    (result,) = run(onnx_model(f"g (float[3,{width}] x) => (float y) {{ y = Softmax(x) }}"), [x])
    assert np.isnan(result[1]).all()
    np.testing.assert_allclose(result[2], [1] + [0] * (width - 1), atol=1e-30)
    np.testing.assert_allclose(result[0], 1 / width, rtol=1e-6)
