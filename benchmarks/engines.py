"""relaxc, ONNX Runtime and OpenVINO behind one interface, each set up for the least latency."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import relaxc
from relaxc.measure.reference import open_session

Feed = dict[str, np.ndarray]
OURS, ORT, OPENVINO = "relaxc", "onnxruntime", "openvino"
# At the precision that the CPU is fastest in: bfloat16 where it has dot products of that type.
OURS_BF16, OPENVINO_BF16 = "relaxc bf16", "openvino default"
# Threads that a library leaves spinning would slow the next one's first runs.
_PAUSE_S = 0.01


@dataclass
class Engine:
    """One engine with a model loaded.

    Attributes:
        name: of the engine and how it is set up.
        run: computes all outputs, in the model's order.
        times_ms: every measured run.
    """

    name: str
    run: Callable[[Feed], list[np.ndarray]]
    times_ms: list[float] = field(default_factory=list)

    def measure(self, feed: Feed, seconds: float) -> None:
        """Run for so long, after one run that fills the caches."""
        time.sleep(_PAUSE_S)
        self.run(feed)
        end = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            self.run(feed)
            now = time.perf_counter()
            self.times_ms.append((now - start) * 1e3)
            if now >= end:
                return


def relaxc_engine(artifact: Path, threads: int, name: str) -> Engine:
    """A compiled artifact."""
    model = relaxc.load(artifact, threads=threads)
    return Engine(name, lambda feed: list(model.run(feed).values()))


def onnxruntime_engine(model: Path, threads: int) -> Engine:
    """ONNX Runtime's CPU provider with its default optimizations."""
    session = open_session(model, threads)
    return Engine(ORT, lambda feed: list(session.run(None, feed)))


def openvino_engine(model: Path, threads: int, is_float32: bool) -> Engine:
    """OpenVINO's CPU plugin: float32, or whatever precision it chooses for this CPU."""
    import openvino

    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if is_float32:
        config["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino.Core().compile_model(str(model), "CPU", config)
    request = compiled.create_infer_request()

    def run(feed: Feed) -> list[np.ndarray]:
        results = request.infer(feed, share_inputs=True, share_outputs=True)
        return [results[i] for i in range(len(compiled.outputs))]

    return Engine(OPENVINO if is_float32 else OPENVINO_BF16, run)


def make_feed(model: Path) -> Feed:
    """Seeded inputs for a model of fixed shapes: noise, token ids, no padding, one segment."""
    rng = np.random.default_rng(0)
    feed: Feed = {}
    for info in open_session(model, 1).get_inputs():
        if "float" in info.type:
            feed[info.name] = rng.standard_normal(info.shape).astype(np.float32)
        elif "mask" in info.name:
            feed[info.name] = np.ones(info.shape, np.int64)
        elif "type" in info.name:
            feed[info.name] = np.zeros(info.shape, np.int64)
        else:
            feed[info.name] = rng.integers(0, 1000, info.shape)
    return feed


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest relative norm of the difference over all outputs."""
    return max(
        float(np.linalg.norm(a.astype(np.float64) - b) / (np.linalg.norm(b) + 1e-30))
        for a, b in zip(ours, theirs)
    )
