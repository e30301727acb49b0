"""Fourier transforms against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model

from relaxc.measure.conformance import run


def signal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", ["12", "n"])
@pytest.mark.parametrize("axis", [1, 2])
def test_transforms_of_real_signals(size: str, axis: int) -> None:
    shape = [2, 5, 5, 1]
    shape[axis] = 12
    dims = ",".join(size if i == axis else str(d) for i, d in enumerate(shape))
    model = onnx_model(
        f"g (float[{dims}] x) => (float y) {{ y = DFT<onesided = 1>(x, , axis) }}",
        opset=20,
        axis=np.array(axis),
    )
    x = signal(*shape)
    (result,) = run(model, [x])
    wanted = np.fft.rfft(x[..., 0], axis=axis)
    np.testing.assert_allclose(result[..., 0], wanted.real, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result[..., 1], wanted.imag, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [8, 16])
def test_cut_and_padded_spectra_go_back(length: int) -> None:
    model = onnx_model(
        "g (float[2,12,2] x) => (float y) { y = DFT<inverse = 1>(x, length) }",
        opset=20,
        length=np.array(length),
    )
    x = signal(2, 12, 2)
    (result,) = run(model, [x])
    wanted = np.fft.ifft(x[..., 0] + 1j * x[..., 1], n=length)
    np.testing.assert_allclose(result[..., 0] + 1j * result[..., 1], wanted, rtol=1e-4, atol=1e-6)


def test_windows_of_a_signal_of_any_length() -> None:
    window = np.hanning(16).astype(np.float32)
    model = onnx_model(
        "g (float[1,n] x) => (float y) { y = STFT(x, step, window) }",
        opset=17,
        step=np.array(4),
        window=window,
    )
    x = signal(1, 40)
    (result,) = run(model, [x])
    frames = np.stack([x[0, i : i + 16] * window for i in range(0, 25, 4)])
    wanted = np.fft.rfft(frames)
    np.testing.assert_allclose(result[0, ..., 0], wanted.real, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result[0, ..., 1], wanted.imag, rtol=1e-3, atol=1e-5)
