"""Whether quantized models are ever slower than float ones: small networks, of tiny layers.

    python benchmarks/speed_gate.py [--threads 1 2] [--cache FOLDER]

The trained networks of examples/models, and two of layers so small that conversions, calls and
threads cost as much as arithmetic. Each runs in float32, with every layer on integers, and as
`--quantize int8` compiles it, with the speed gate; in turns, whole inferences from Python, the
fastest of each in microseconds. The exit status is 1 if the last is slower than float32 by more
than the 3 % that two runs of one artifact differ by.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from engines import Feed, relaxc_engine
from onnx import parser

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.measure.feeds import make_feed
from relaxc.measure.machine import this_machine
from relaxc.options import QuantizeOptions

EXAMPLES = Path(__file__).parents[1] / "examples" / "models"
NOISE = 1.03
WAYS = ("float32", "all layers int8", "with the gate")


def models(folder: Path) -> list[Path]:
    """Trained ones, and made-up ones, which are written to a folder."""
    rng = np.random.default_rng(0)
    layers = " ".join(
        f"a{i} = Conv<pads=[1,1,1,1]>(r{i}, w) r{i + 1} = Relu(a{i})" for i in range(6)
    )
    body = f"r0 = Relu(x) {layers} y = Conv<pads=[1,1,1,1]>(r6, w)"
    made: dict[str, tuple[str, tuple[int, ...]]] = {}
    graph = f"float[1,8,8,8] x) => (float[1,8,8,8] y) {{ {body} }}"
    made["tiny convolutions"] = graph, (8, 8, 3, 3)
    layers = " ".join(f"a{i} = MatMul(r{i}, w) r{i + 1} = Relu(a{i})" for i in range(6))
    body = f"r0 = Relu(x) {layers} y = MatMul(r6, w)"
    made["tiny products"] = (f"float[4,32] x) => (float[4,32] y) {{ {body} }}", (32, 32))
    paths = sorted(EXAMPLES.rglob("*.onnx"))
    for name, (text, shape) in made.items():
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({text}')
        weight = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        tensor = onnx.numpy_helper.from_array(weight.astype(np.float32), "w")
        model.graph.initializer.append(tensor)
        paths.append(folder / f"{name}.onnx")
        onnx.save(model, paths[-1])
    return paths


def prepare(model: Path, folder: Path, again: bool) -> dict[str, Path]:
    """An artifact per way to compile a model."""
    files = {way: folder / f"{model.stem}.{i}.rxc" for i, way in enumerate(WAYS)}
    for way, path in files.items():
        if path.exists() and not again:
            continue
        quantize = None
        if way != WAYS[0]:
            quantize = QuantizeOptions(least_sqnr_db=None, speed_gate=way == WAYS[2])
        with quiet():
            options = relaxc.CompileOptions(quantize=quantize)
            relaxc.compile(model, path, options, calibration_data=feeds)
    return files


def feeds(inputs: object) -> list[Feed]:
    """Noise for a model's inputs; symbolic dimensions are one."""
    return [make_feed(inputs, {}) for _ in range(8)]  # type: ignore[arg-type]


def measure(files: dict[str, Path], threads: int, args: argparse.Namespace) -> list[float]:
    """Microseconds of each way."""
    engines = [relaxc_engine(path, threads, way) for way, path in files.items()]
    feed = make_feed(relaxc.load(files[WAYS[0]]).inputs, {})
    for _ in range(args.rounds):
        for engine in engines:
            engine.measure(feed, args.seconds)
    return [min(engine.times_ms) * 1e3 for engine in engines]


def main() -> int:
    """Compile, measure and judge."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--seconds", type=float, default=0.05, help="per way and round")
    options.add_argument("--cache", type=Path, help="where artifacts stay")
    options.add_argument("--prepare", action="store_true", help="compile anew, measure nothing")
    args = options.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(exist_ok=True)
        prepared = {path: prepare(path, folder, args.prepare) for path in models(folder)}
        if args.prepare:
            return 0
        print(f"{this_machine().cpu}; microseconds\n")
        print("| model | threads | " + " | ".join(WAYS) + " | ratio |\n|---|---|---|---|---|---|")
        ratios = []
        for model, files in prepared.items():
            for threads in args.threads:
                times = measure(files, threads, args)
                ratios.append(times[2] / times[0])
                cells = [model.stem, str(threads), *(f"{t:.1f}" for t in times)]
                verdict = " SLOWER" if ratios[-1] > NOISE else ""
                print("| " + " | ".join([*cells, f"{ratios[-1]:.2f}{verdict}"]) + " |", flush=True)
        worst = max(ratios)
        print(f"\nGeometric mean {statistics.geometric_mean(ratios):.2f}, worst {worst:.2f}")
    return int(worst > NOISE)


if __name__ == "__main__":
    sys.exit(main())
