"""GPUs that compute one model add up their parts, each emulated by a thread of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from builders import onnx_model
from emulation import BOUNDS, EmulatedModel, more, needs_emulation, random

from relaxc import communicator
from relaxc.layout import Precision
from relaxc.passes.shard.shard_layers import ShardLayers
from relaxc.targets.cuda.groups import all_reduce

pytestmark = needs_emulation


class EmulatedGpus:
    """A divided model, and the memory that its parts share."""

    def __init__(self, model: onnx.ModelProto, precision: Precision, ranks: int) -> None:
        self._parts = [
            EmulatedModel(model, precision, sharding=[ShardLayers(ranks, rank)])
            for rank in range(ranks)
        ]
        size = communicator.area_bytes(ranks)
        self._areas = [np.zeros(size, np.uint8) for _ in self._parts]
        self._numbers: list[np.ndarray] = []
        for rank, part in enumerate(self._parts):
            numbers = np.zeros(len(communicator.PLACEHOLDER) // 8, np.uint64)
            numbers[communicator.RANK], numbers[communicator.RANKS] = rank, ranks
            numbers[communicator.IS_JOINED] = 1
            addresses = [area.ctypes.data for area in self._areas]
            numbers[communicator.AREAS : communicator.AREAS + ranks] = addresses
            texts = [w.numpy().tobytes() for w in part.weights]
            place = texts.index(communicator.PLACEHOLDER)
            part.weights[place] = tvm.runtime.tensor(numbers.view(np.float32))
        self._pool = ThreadPoolExecutor(ranks)
        self.kernels = self._parts[0].kernels

    def run(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The first result, as each part has it."""
        return [outputs[0] for outputs in self._pool.map(lambda p: p.run(feed), self._parts)]


def feed_forward(rows: int, width: int) -> onnx.ModelProto:
    """Two blocks, so that rounds follow each other; their biases, and a residual."""
    return onnx_model(
        f"""g (float[{rows},{width}] x) => (float[{rows},{width}] y) {{
            a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Add(c, v)  e = Add(d, x)
            f = MatMul(e, w3)  h = Tanh(f)  i = MatMul(h, w4)  y = Add(i, e)
        }}""",
        w1=random(width, 16) / 8,
        w2=random(16, width, seed=1) / 8,
        w3=random(width, 16, seed=2) / 8,
        w4=random(16, width, seed=3) / 8,
        v=random(width, seed=4),
    )


@pytest.mark.parametrize(
    ("rows", "width", "precision", "ranks", "most_small"),
    [
        (5, 40, "float16", 2, 1 << 18),
        (5, 40, "float16", 2, 0),
        more(300, 24, "float32", 2, 1 << 18),
        more(300, 24, "float32", 4, 0),
        more(3, 7, "bfloat16", 2, 1 << 18),
        more(3, 7, "float16", 4, 0),
    ],
)
def test_parts_are_added_up(
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    width: int,
    precision: Precision,
    ranks: int,
    most_small: int,
) -> None:
    monkeypatch.setattr(all_reduce, "_MOST_SMALL", most_small)
    # So few blocks that some have several rounds.
    monkeypatch.setattr(communicator, "SMALL_BLOCKS", 2)
    monkeypatch.setattr(communicator, "LARGE_BLOCKS", 1)
    model = feed_forward(rows, width)
    gpus = EmulatedGpus(model, precision, ranks)
    assert "allreduce" in gpus.kernels
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for seed in range(3):  # memory is used again
        feed = {"x": random(rows, width, seed=10 + seed)}
        results = gpus.run(feed)
        (expected,) = session.run(None, feed)
        bound = 4 * BOUNDS[precision] * float(np.abs(expected).max())
        np.testing.assert_allclose(results[0], expected, rtol=0, atol=bound)
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])
