"""Measure relaxc against ONNX Runtime and OpenVINO, interleaved in one run.

    python benchmarks/cpu.py MODEL.onnx... [--threads 2] [--batch 1] [--rounds 8] [--json out.json]

Every engine runs the same model with the same threads and inputs. A round gives each engine the
same wall time in turn, so that a drift of the machine's speed hits all alike; minimum and median
over all rounds are shown, and the ratio of relaxc to the better float32 peer. Outputs are checked
against ONNX Runtime's before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import relaxc
from relaxc.cpu import model_name

Feed = dict[str, np.ndarray]
Run = Callable[[Feed], list[np.ndarray]]
ENGINES = ("relaxc", "onnxruntime", "openvino", "openvino bf16")


@dataclass
class Engine:
    """One engine with a model loaded.

    Attributes:
        name: as in `ENGINES`.
        run: computes all outputs.
        times_ms: every measured run.
    """

    name: str
    run: Run
    times_ms: list[float] = field(default_factory=list)


def onnxruntime_engine(model: Path, threads: int) -> tuple[Engine, list[Any]]:
    """ONNX Runtime on its CPU provider, and its input descriptions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return Engine("onnxruntime", lambda feed: session.run(None, feed)), session.get_inputs()


def openvino_engine(model: Path, threads: int, shapes: dict[str, list[int]], bf16: bool) -> Engine:
    """OpenVINO tuned for latency; float32, or its default precision on this CPU."""
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model))
    network.reshape({name: openvino.PartialShape(shape) for name, shape in shapes.items()})
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if not bf16:
        config["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = core.compile_model(network, "CPU", config)
    request = compiled.create_infer_request()

    def run(feed: Feed) -> list[np.ndarray]:
        results = request.infer(feed, share_inputs=True, share_outputs=True)
        return [results[i] for i in range(len(compiled.outputs))]

    return Engine("openvino bf16" if bf16 else "openvino", run)


def relaxc_engine(
    model: Path, threads: int, shapes: dict[str, list[int]], folder: Path
) -> tuple[Engine, float]:
    """relaxc, compiled without tuning, and the seconds that took."""
    output = folder / f"{model.stem}.rxc"
    fixed = {name: tuple(shape) for name, shape in shapes.items()}
    start = time.perf_counter()
    relaxc.compile(model, output, relaxc.CompileOptions(input_shapes=fixed))
    seconds = time.perf_counter() - start
    loaded = relaxc.load(output, threads=threads)
    return Engine("relaxc", lambda feed: list(loaded.run(feed).values())), seconds


def make_feed(inputs: list[Any], batch: int, sequence: int) -> Feed:
    """Seeded inputs; the first symbolic dimension is the batch, others are the sequence."""
    rng = np.random.default_rng(0)
    feed: Feed = {}
    for info in inputs:
        shape = [
            d if isinstance(d, int) else batch if axis == 0 else sequence
            for axis, d in enumerate(info.shape)
        ]
        if "float" in info.type:
            feed[info.name] = rng.standard_normal(shape).astype(np.float32)
        elif "mask" in info.name:
            feed[info.name] = np.ones(shape, np.int64)
        elif "type" in info.name:
            feed[info.name] = np.zeros(shape, np.int64)
        else:
            feed[info.name] = rng.integers(0, 1000, shape)
    return feed


def measure(engines: list[Engine], feed: Feed, rounds: int, seconds: float) -> None:
    """Give every engine `seconds` per round, in turn."""
    for _ in range(rounds):
        for engine in engines:
            engine.run(feed)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                engine.run(feed)
                engine.times_ms.append((time.perf_counter() - start) * 1e3)


def benchmark(model: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All engines on one model."""
    reference, inputs = onnxruntime_engine(model, arguments.threads)
    feed = make_feed(inputs, arguments.batch, arguments.sequence)
    shapes = {name: list(array.shape) for name, array in feed.items()}
    ours, compile_s = relaxc_engine(model, arguments.threads, shapes, folder)
    engines = [ours, reference]
    for bf16 in (False, True):
        engines.append(openvino_engine(model, arguments.threads, shapes, bf16))
    error = max(
        float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-30))
        for a, b in zip(ours.run(feed), reference.run(feed))
    )
    if not error < 1e-3:
        sys.exit(f"{model.stem}: outputs differ from ONNX Runtime's, relative norm {error:.1e}")
    measure(engines, feed, arguments.rounds, arguments.seconds)
    times = {
        e.name: {"min_ms": min(e.times_ms), "median_ms": statistics.median(e.times_ms)}
        for e in engines
    }
    peer = {
        key: min(times["onnxruntime"][key], times["openvino"][key])
        for key in ("min_ms", "median_ms")
    }
    return {
        "model": model.stem,
        "error": error,
        "compile_s": compile_s,
        "times": times,
        "ratio_min": times["relaxc"]["min_ms"] / peer["min_ms"],
        "ratio_median": times["relaxc"]["median_ms"] / peer["median_ms"],
    }


def line(result: dict[str, Any]) -> str:
    """One row of the table."""
    times = result["times"]
    cells = [f"{times[name]['min_ms']:.2f} / {times[name]['median_ms']:.2f}" for name in ENGINES]
    ratio = f"{result['ratio_min']:.2f} / {result['ratio_median']:.2f}"
    return f"| {result['model']} | " + " | ".join(cells) + f" | {ratio} | {result['error']:.0e} |"


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{model_name()}, {arguments.threads} threads, batch {arguments.batch}; min / median ms")
    print("| model | " + " | ".join(ENGINES) + " | relaxc / best f32 peer | error |")
    print("|---" * (len(ENGINES) + 3) + "|")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            results.append(benchmark(model, arguments, Path(folder)))
            print(line(results[-1]), flush=True)
    for key in ("ratio_min", "ratio_median"):
        print(f"geometric mean {key}: {statistics.geometric_mean(r[key] for r in results):.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
