"""LSTM in every direction, by the kernel and by the plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model

from relaxc.targets.llvm.kernels.lstm import LstmSpec, pack_weights


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("hidden, kernel", [(32, "lstm"), (20, "lstm"), (64, "lstm"), (83, "lstm")])
@pytest.mark.parametrize("batch", [1, 3])
def test_matches_onnxruntime(direction: str, hidden: int, kernel: str, batch: int) -> None:
    _check(direction, hidden, kernel, batch)


@pytest.mark.parametrize("hidden", [256, 237])
def test_weights_that_fill_the_cache(hidden: int) -> None:
    _check("bidirectional", hidden, "lstm", 1)


@pytest.mark.parametrize("hidden", [5, 33, 50])
def test_vectors_of_eight(hidden: int) -> None:
    _check("reverse", hidden, "lstm", 2, "llvm -mcpu=x86-64-v3")


@pytest.mark.parametrize("hidden, batch", [(32, 8), (237, 7), (20, 2), (256, 4)])
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("target", ["llvm", "llvm -mcpu=x86-64-v3"])
def test_sequences_are_computed_together(
    direction: str, hidden: int, batch: int, target: str
) -> None:
    _check(direction, hidden, "lstm", batch, target, is_fixed=True)


def _check(
    direction: str,
    hidden: int,
    kernel: str,
    batch: int,
    target: str = "llvm",
    is_fixed: bool = False,
) -> None:
    rng = np.random.default_rng(0)
    d = 2 if direction == "bidirectional" else 1

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    n = batch if is_fixed else "b"
    model = onnx_model(
        f"""g (float[s,{n},24] x, float[{d},{n},{hidden}] h0, float[{d},{n},{hidden}] c0)
              => (float[s,{d},{n},{hidden}] y, float[{d},{n},{hidden}] h,
                  float[{d},{n},{hidden}] c) {{
            y, h, c = LSTM <hidden_size={hidden}, direction="{direction}"> (x, w, r, bias, , h0, c0)
        }}""",
        w=random(d, 4 * hidden, 24),
        r=random(d, 4 * hidden, hidden),
        bias=random(d, 8 * hidden),
    )
    feed = {
        "x": random(7, batch, 24),
        "h0": random(d, batch, hidden),
        "c0": random(d, batch, hidden),
    }
    check_model(model, feed, target, kernels={kernel})


def test_narrow_weights_are_exact_to_24_bits() -> None:
    spec = LstmSpec(1, 1, 1, 16, False, is_narrow=True)
    recurrent = np.random.default_rng(0).standard_normal((1, 64, 16)).astype(np.float32)
    recurrent[0, 5] = 0
    panel = pack_weights(recurrent, spec, 16)[0, 0]
    scale, rows = panel[:64].view(np.float32), panel[64:].reshape(16, 3, 16).astype(np.int64)
    # Vectors are the gates here; the last is made of the low bytes of the others.
    last = np.zeros((16, 16), np.int64)
    for i, shift in enumerate((24, 16, 8)):
        last |= (rows[:, i] & 255) << shift
    integers = np.stack([*np.moveaxis(rows, 1, 0), last.astype(np.uint32).astype(np.int32)], 1)
    found = integers.reshape(16, 64) * scale.astype(np.float64)
    wanted = recurrent[0].T
    largest = np.maximum(np.abs(wanted).max(axis=0), 1e-20)
    assert np.all(np.abs(found - wanted) <= 1.01 * 2**-24 * largest)
