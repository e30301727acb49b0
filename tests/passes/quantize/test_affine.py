"""Affine quantization against ONNX's operators."""

from __future__ import annotations

import numpy as np
import onnx.reference
import pytest
from builders import onnx_model

from relaxc.passes.quantize.affine import (
    QuantParams,
    activation_params,
    shortened,
    weight_params,
)


def reference(values: np.ndarray, params: QuantParams) -> list[np.ndarray]:
    """ONNX's QuantizeLinear, and DequantizeLinear of its result."""
    axis = -1 if params.axis is None else params.axis
    dtype = params.dtype.name
    shape = ",".join("abcd"[: values.ndim])
    scale = "s" if params.axis is not None else ""
    model = onnx_model(
        f"""g (float[{shape}] x, float[{scale}] scale, {dtype}[{scale}] zero)
        => ({dtype}[{shape}] q, float[{shape}] y) {{
            q = QuantizeLinear<axis = {axis}>(x, scale, zero)
            y = DequantizeLinear<axis = {axis}>(q, scale, zero)
        }}""",
        opset=21,
    )
    feed = {"x": values, "scale": params.scale, "zero": params.zero_point}
    results: list[np.ndarray] = onnx.reference.ReferenceEvaluator(model).run(None, feed)
    return results


@pytest.mark.parametrize("bounds", [(-3.0, 5.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_activations_agree_with_onnx(bounds: tuple[float, float], symmetric: bool) -> None:
    params = activation_params(*bounds, symmetric)
    values = np.random.default_rng(0).uniform(-6, 6, (5, 7)).astype(np.float32)
    quantized, real = reference(values, params)
    np.testing.assert_array_equal(params.quantize(values), quantized)
    np.testing.assert_array_equal(params.dequantize(quantized), real)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_agree_with_onnx(axis: int | None) -> None:
    weight = np.random.default_rng(1).standard_normal((6, 4, 3, 3)).astype(np.float32)
    weight[2] = 0  # a channel of zeros must not divide by zero
    params = weight_params(weight, axis)
    quantized, real = reference(weight, params)
    np.testing.assert_array_equal(params.quantize(weight), quantized)
    np.testing.assert_array_equal(params.dequantize(quantized), real)
    assert np.abs(real - weight).max() <= params.scale.max() / 2 + 1e-7


def test_zero_is_exact() -> None:
    for low, high in ((-0.7, 12.3), (3.0, 4.0), (-9.0, -8.0)):
        params = activation_params(low, high, symmetric=False)
        assert params.dequantize(params.quantize(np.zeros(1, np.float32))) == 0


def test_zero_points_of_symmetric_activations() -> None:
    assert activation_params(0.0, 3.0, symmetric=True).zero_point == 0
    assert activation_params(-1.0, 3.0, symmetric=True).zero_point == 128


def test_short_scales_are_near_and_have_eight_bits() -> None:
    scale = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    short = shortened(scale)
    assert not (short.view(np.uint32) & 0xFFFF).any()
    np.testing.assert_allclose(short, scale, rtol=2.0**-8)
    np.testing.assert_array_equal(shortened(short), short)
