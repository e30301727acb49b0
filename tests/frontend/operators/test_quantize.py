"""Quantization against ONNX's reference implementation: axes, blocks and narrow types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from builders import onnx_model
from kernels import run_model
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from relaxc.frontend.element_types import carried


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint4", "int4", "float8e4m3fn"])
@pytest.mark.parametrize("layout", ["tensor", "axis", "block"])
def test_there_and_back(kind: str, layout: str) -> None:
    shape = {"tensor": "", "axis": "[6]", "block": "[4,3]"}[layout]
    attrs = "<axis=1, block_size=2>" if layout == "block" else "<axis=1>"
    graph = f"""g (float[4,6] x, float{shape} s, {kind}{shape} z)
        => ({kind}[4,6] q, float[4,6] y) {{
        q = QuantizeLinear{attrs}(x, s, z)  y = DequantizeLinear{attrs}(q, s, z)
    }}"""
    model = onnx_model(graph, 23)
    rng = np.random.default_rng(0)
    dims = {"tensor": (), "axis": (6,), "block": (4, 3)}[layout]
    cast = f"g (float{shape} f) => ({kind}{shape} z) {{ z = Cast<to={_code(kind)}>(f) }}"
    fill = np.full(dims, 0 if "float" in kind else 2, np.float32)
    (zero,) = ReferenceEvaluator(onnx_model(cast, 23)).run(None, {"f": fill})
    feed = {
        "x": (rng.standard_normal((4, 6)) * 5).astype(np.float32),
        "s": rng.uniform(0.1, 0.5, dims).astype(np.float32),
        "z": zero,
    }
    expected = ReferenceEvaluator(model).run(None, feed)
    actual, _ = run_model(model, {**feed, "z": carried(np.asarray(zero))})
    np.testing.assert_array_equal(actual[0], carried(expected[0]))
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "int4", "uint4", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("scales", [(), (4,)])
@pytest.mark.parametrize("is_constant", [True, False])
def test_known_scales(is_constant: bool, scales: tuple[int, ...], kind: str) -> None:
    """Passes could realize them: of bytes that are integers, no bits of other types."""
    rng = np.random.default_rng(1)
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    arrays = {
        "s": rng.uniform(0.1, 0.5, scales).astype(np.float32),
        "z": np.full(scales, 0 if "float" in kind else 2).astype(dtype),
    }
    if is_constant:
        arrays["q"] = (rng.standard_normal((4, 6)) * 3).clip(0, 7).astype(dtype)
    first = "" if is_constant else "q = QuantizeLinear<axis=0>(x, s, z)"
    model = onnx_model(
        f"""g (float[4,6] x) => (float[4,6] y) {{
            {first} d = DequantizeLinear<axis=0>(q, s, z)  y = Add(x, d)
        }}""",
        23,
        **arrays,
    )
    x = (rng.standard_normal((4, 6)) * 3).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (actual,), _ = run_model(model, {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def _code(kind: str) -> int:
    return int(getattr(TensorProto, kind.upper()))
