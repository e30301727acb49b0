"""GRU in every direction, by the kernel, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from builders import onnx_model
from kernels import BuiltModel, run_model

from relaxc import cpu
from relaxc.layout import Precision
from relaxc.targets.llvm.groups import recurrent
from relaxc.targets.llvm.kernels import gru


def check(
    hidden: int,
    direction: str,
    after: int,
    batches: list[int],
    target: str = "llvm",
    lengths: list[int] | None = None,
    is_fixed: bool = False,
    precision: Precision = "float32",
    attrs: str = "",
) -> None:
    rng = np.random.default_rng(0)
    d = 2 if direction == "bidirectional" else 1

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    n = batches[0] if is_fixed else "b"
    model = onnx_model(
        f"""g (float[s,{n},24] x, float[{d},{n},{hidden}] h0, int32[{n}] lengths)
              => (float[s,{d},{n},{hidden}] y, float[{d},{n},{hidden}] h) {{
            y, h = GRU <hidden_size={hidden}, direction="{direction}", linear_before_reset={after}
                {attrs}>
                (x, w, r, bias, {"" if lengths is None else "lengths"}, h0) }}""",
        18,
        w=random(d, 3 * hidden, 24),
        r=random(d, 3 * hidden, hidden) * np.float32(min(1, 4 / hidden**0.5)),
        bias=random(d, 6 * hidden),
    )
    built = BuiltModel(model, target, precision)
    assert "gru" in built.kernels
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in batches:
        feed = {
            "x": random(7, batch, 24),
            "h0": random(d, batch, hidden),
            "lengths": np.array((lengths or [7] * 8)[:batch], np.int32),
        }
        for ours, theirs in zip(built.run(feed), session.run(None, feed), strict=True):
            assert ours.shape == theirs.shape
            if precision == "float32":
                assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()
            else:
                # Products were rounded, and no more than that.
                assert 1e-5 < np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-2


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every kernel that takes the loops' place; both have the same name."""
    found: list[int] = []

    def counted(*args: Any) -> None:
        found.append(1)
        gru.emit_gru(*args)

    monkeypatch.setattr(recurrent, "emit_gru", counted)
    return found


@pytest.mark.parametrize(
    "direction, hidden, after", [("forward", 32, 0), ("bidirectional", 83, 1), ("reverse", 20, 0)]
)
def test_open_batches_and_steps(
    written: list[int], direction: str, hidden: int, after: int
) -> None:
    check(hidden, direction, after, [1, 2, 3, 7, 8])
    assert written


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("hidden, after, batch", [(32, 0, 8), (64, 1, 3), (83, 0, 1), (20, 1, 5)])
def test_fixed_batches(
    written: list[int], direction: str, hidden: int, after: int, batch: int
) -> None:
    check(hidden, direction, after, [batch], is_fixed=True)
    assert written


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("after", [0, 1])
def test_sequences_that_end_early(written: list[int], direction: str, after: int) -> None:
    check(20, direction, after, [8, 3], lengths=[7, 1, 4, 6, 2, 2, 5, 3])
    assert written


@pytest.mark.parametrize("after", [0, 1])
def test_clipping(written: list[int], after: int) -> None:
    check(20, "reverse", after, [2], is_fixed=True, attrs=", clip=0.4")
    assert written


@pytest.mark.parametrize("target", ["llvm -mcpu=haswell", "llvm -mcpu=x86-64-v3"])
@pytest.mark.parametrize("after", [0, 1])
def test_vectors_of_eight(written: list[int], target: str, after: int) -> None:
    check(37, "bidirectional", after, [3, 1], target, lengths=[3, 7, 5])
    assert written


@pytest.mark.skipif("avx512bf16" not in cpu.features(), reason="needs dot products of bfloat16")
@pytest.mark.parametrize(
    "direction, hidden, after, batch",
    [("forward", 256, 1, 1), ("reverse", 33, 0, 3), ("bidirectional", 83, 1, 8)],
)
@pytest.mark.parametrize("is_fixed", [True, False])
def test_pairs_of_bfloat16(
    written: list[int], direction: str, hidden: int, after: int, batch: int, is_fixed: bool
) -> None:
    check(hidden, direction, after, [batch], is_fixed=is_fixed, precision="bfloat16")
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
