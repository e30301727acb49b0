"""LSTM in every direction, by the kernel, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from builders import onnx_model
from kernels import BuiltModel

from relaxc import cpu
from relaxc.layout import Precision
from relaxc.targets.llvm.kernels.recurrent_panels import Panels, Storage

AVX2 = "llvm -mcpu=x86-64-v3"


@pytest.mark.parametrize("direction, hidden", [("forward", 20), ("bidirectional", 83)])
def test_open_batches_and_steps(direction: str, hidden: int) -> None:
    _check(direction, hidden, [1, 2, 3, 4, 7, 8])


@pytest.mark.parametrize("target", ["llvm -mcpu=haswell", AVX2])
def test_open_batches_by_vectors_of_eight(target: str) -> None:
    _check("bidirectional", 33, [1, 2, 5], target)


@pytest.mark.parametrize("hidden", [256, 237])
def test_weights_that_fill_the_cache(hidden: int) -> None:
    _check("bidirectional", hidden, [1], is_fixed=True)


@pytest.mark.parametrize("hidden", [5, 50])
def test_vectors_of_eight(hidden: int) -> None:
    _check("reverse", hidden, [2], AVX2, is_fixed=True)


@pytest.mark.parametrize("hidden, batch", [(32, 8), (237, 7), (20, 2), (256, 4)])
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("target", ["llvm", AVX2])
def test_sequences_are_computed_together(
    direction: str, hidden: int, batch: int, target: str
) -> None:
    _check(direction, hidden, [batch], target, is_fixed=True)


@pytest.mark.skipif("avx512bf16" not in cpu.features(), reason="needs dot products of bfloat16")
@pytest.mark.parametrize(
    "direction, hidden, batch",
    [("forward", 256, 1), ("reverse", 33, 3), ("bidirectional", 83, 8), ("forward", 5, 4)],
)
@pytest.mark.parametrize("is_fixed", [True, False])
def test_pairs_of_bfloat16(direction: str, hidden: int, batch: int, is_fixed: bool) -> None:
    _check(direction, hidden, [batch], precision="bfloat16", is_fixed=is_fixed)


def _check(
    direction: str,
    hidden: int,
    batches: list[int],
    target: str = "llvm",
    is_fixed: bool = False,
    precision: Precision = "float32",
) -> None:
    rng = np.random.default_rng(0)
    d = 2 if direction == "bidirectional" else 1

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    n = batches[0] if is_fixed else "b"
    model = onnx_model(
        f"""g (float[s,{n},24] x, float[{d},{n},{hidden}] h0, float[{d},{n},{hidden}] c0)
              => (float[s,{d},{n},{hidden}] y, float[{d},{n},{hidden}] h,
                  float[{d},{n},{hidden}] c) {{
            y, h, c = LSTM <hidden_size={hidden}, direction="{direction}"> (x, w, r, bias, , h0, c0)
        }}""",
        w=random(d, 4 * hidden, 24),
        r=random(d, 4 * hidden, hidden) * np.float32(min(1, 4 / hidden**0.5)),
        bias=random(d, 8 * hidden),
    )
    built = BuiltModel(model, target, precision)
    assert "lstm" in built.kernels
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in batches:
        feed = {
            "x": random(7, batch, 24),
            "h0": random(d, batch, hidden),
            "c0": random(d, batch, hidden),
        }
        for ours, theirs in zip(built.run(feed), session.run(None, feed), strict=True):
            assert ours.shape == theirs.shape
            if precision == "float32":
                assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()
            else:
                # Products were rounded, and no more than that.
                assert 1e-5 < np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-2


def test_narrow_weights_are_exact_to_24_bits() -> None:
    panels = Panels(4, 16, 1, 16, 16, "bits24")
    recurrent = np.random.default_rng(0).standard_normal((1, 64, 16)).astype(np.float32)
    recurrent[0, 5] = 0
    panel = panels.pack(recurrent)[0]
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


@pytest.mark.parametrize("storage", ["float32", "bits24", "bfloat16"])
@pytest.mark.parametrize("gates, hidden, rows", [(4, 256, 4), (4, 83, 1), (1, 20, 2), (2, 5, 4)])
def test_panels_are_as_large_as_they_say(
    storage: Storage, gates: int, hidden: int, rows: int
) -> None:
    panels = Panels(gates, hidden, rows, 16, 16, storage)
    if storage == "bits24" and panels.vectors % 4:
        pytest.skip("four vectors at a time")
    packed = panels.pack(np.ones((2, gates * hidden, hidden), np.float32))
    assert packed.shape == (2, panels.total) and packed.dtype.name == panels.dtype
