"""GRU in every direction, by the kernel, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import onnx_model
from kernels import check_model, run_model

from relaxc.targets.llvm.groups import recurrent
from relaxc.targets.llvm.kernels import gru


def check(
    hidden: int,
    direction: str,
    after: int,
    batch: int,
    target: str = "llvm",
    lengths: list[int] | None = None,
) -> None:
    rng = np.random.default_rng(0)
    d = 2 if direction == "bidirectional" else 1

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    weights = {
        "w": random(d, 3 * hidden, 24),
        "r": random(d, 3 * hidden, hidden),
        "bias": random(d, 6 * hidden),
    }
    if lengths is not None:
        weights["lengths"] = np.array(lengths, np.int32)
    model = onnx_model(
        f"""g (float[s,b,24] x, float[{d},b,{hidden}] h0)
              => (float[s,{d},b,{hidden}] y, float[{d},b,{hidden}] h) {{
            y, h = GRU <hidden_size={hidden}, direction="{direction}", linear_before_reset={after}>
                (x, w, r, bias, {"" if lengths is None else "lengths"}, h0) }}""",
        18,
        **weights,
    )
    feed = {"x": random(7, batch, 24), "h0": random(d, batch, hidden)}
    check_model(model, feed, target, kernels={"gru"})


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every kernel that takes the loops' place; both have the same name."""
    found: list[int] = []

    def counted(*args: Any) -> None:
        found.append(1)
        gru.emit_gru(*args)

    monkeypatch.setattr(recurrent, "emit_gru", counted)
    return found


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("hidden, after", [(32, 0), (64, 1), (20, 1), (83, 0)])
def test_matches_onnxruntime(written: list[int], direction: str, hidden: int, after: int) -> None:
    check(hidden, direction, after, 3)
    assert written


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_sequences_that_end_early(written: list[int], direction: str) -> None:
    check(20, direction, 0, 3, lengths=[7, 1, 4])
    assert written


def test_vectors_of_eight(written: list[int]) -> None:
    check(37, "bidirectional", 1, 1, "llvm -mcpu=x86-64-v3")
    assert written


def test_other_activations_stay_loops(written: list[int]) -> None:
    rng = np.random.default_rng(0)
    model = onnx_model(
        """g (float[3,1,4] x) => (float[3,1,1,8] y) {
            y = GRU <hidden_size=8, activations=["Sigmoid", "Relu"]> (x, w, r) }""",
        18,
        w=rng.standard_normal((1, 24, 4)).astype(np.float32),
        r=rng.standard_normal((1, 24, 8)).astype(np.float32),
    )
    (y,), _ = run_model(model, {"x": np.ones((3, 1, 4), np.float32)})
    assert not written and np.isfinite(y).all()
