"""float16 and bfloat16 against the same model in single precision."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from builders import onnx_model

from relaxc.measure.conformance import run


@pytest.mark.parametrize("op", ["Celu", "Elu", "Selu", "Softplus", "Tanh", "ReduceSum"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves_are_rounded_once(op: str, kind: str) -> None:
    half = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else np.float16)
    x = np.linspace(-3, 3, 40).astype(half).reshape(2, 20)
    graph = f"g (TYPE[n,20] x) => (TYPE y) {{ y = {op}(x) }}"
    (narrow,) = run(onnx_model(graph.replace("TYPE", kind)), [x])
    (wide,) = run(onnx_model(graph.replace("TYPE", "float")), [x.astype(np.float32)])
    assert narrow.dtype == half
    np.testing.assert_array_equal(narrow, wide.astype(half))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_what_has_several_types(kind: str) -> None:
    half = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else np.float16)
    x = np.linspace(-3, 3, 40).astype(half).reshape(2, 20)[:, ::-1].copy()
    ones = np.ones(20)
    graph = """g (TYPE[n,20] x) => (TYPE y, int64 i) {
        y = LayerNormalization(x, s, s)
        i = ArgMax<axis=1>(x)
    }"""
    (narrow, at), (wide, _) = (
        run(onnx_model(graph.replace("TYPE", name), s=ones.astype(dtype)), [x.astype(dtype)])
        for name, dtype in ((kind, half), ("float", np.dtype(np.float32)))
    )
    assert narrow.dtype == half and at.tolist() == [[0], [0]]
    step = 2.0**-10 if kind == "float16" else 2.0**-7
    np.testing.assert_allclose(narrow.astype(np.float32), wide, atol=4 * step)
