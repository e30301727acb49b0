"""Measure int8 of relaxc against OpenVINO's (NNCF), ONNX Runtime's and our own float32.

    pip install -e .[bench] nncf
    python benchmarks/quantize_speed.py FOLDER [--only NAME ...] [--threads 2] [--plot FILE]

FOLDER holds what `benchmarks/export_models.py` wrote. Every engine quantizes the same model by its
own means and runs it on the same inputs, in turn; tables show minimum and median over all rounds.
All layers are quantized, whether they are faster for it or not, unless `--speed-gate` is given.

On a machine that others use, too, measure a model or two at a time when it is quiet; tables and
plots are of all that was measured so far:

    python benchmarks/quantize_speed.py FOLDER --cache CACHE --prepare
    python benchmarks/quantize_speed.py FOLDER --cache CACHE --only resnet18 resnet50   # and so on
    python benchmarks/quantize_speed.py FOLDER --cache CACHE --only --plot quantize_speed.svg
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engines import (
    OPENVINO,
    ORT,
    OURS,
    Engine,
    make_feed,
    onnxruntime_engine,
    openvino_engine,
    relaxc_engine,
)
from quantized_peers import onnxruntime_int8, openvino_int8, samples
from suite import Verdict

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.measure.machine import this_machine
from relaxc.options import QuantizeOptions

MODELS = (
    *("resnet18", "resnet50", "mobilenetv2", "inception_v3", "unet"),
    *("minilm_static", "vit_tiny", "bert_base_s128"),
)
OURS_FLOAT = "relaxc float32"
# Of OpenVINO's and ONNX Runtime's time in the geometric mean, bert_base aside; of OpenVINO's on
# any model; of our own float32.
MEAN_OPENVINO, MEAN_ORT, WORST, WORST_BERT, WORST_FLOAT = 0.95, 0.80, 1.10, 0.85, 0.50
BERT = ("minilm_static", "bert_base_s128")
HALVED = ("resnet50", *BERT)


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        model: its name.
        min_ms, median_ms: by engine.
    """

    model: str
    min_ms: dict[str, float]
    median_ms: dict[str, float]

    def ratio(self, peer: str, kind: str = "min") -> float:
        """relaxc's int8 time relative to another's."""
        times = self.min_ms if kind == "min" else self.median_ms
        return times[OURS] / times[peer]


def prepare(model: Path, cache: Path, again: bool, speed_gate: bool) -> dict[str, Path]:
    """Every engine's file, by engine."""
    files = {OURS: cache / f"{model.stem}.int8.rxc", OURS_FLOAT: cache / f"{model.stem}.rxc"}
    for name, path in files.items():
        if again or not path.exists():
            # Calibrated on noise, which says nothing of how exact a layer is.
            fast = QuantizeOptions(least_sqnr_db=None, correct=(), speed_gate=speed_gate)
            quantize = fast if name == OURS else None
            options = relaxc.CompileOptions(quantize=quantize)
            with quiet():
                relaxc.compile(model, path, options, calibration_data=samples(model))
    files[OPENVINO] = openvino_int8(model, cache)
    files[ORT] = onnxruntime_int8(model, cache)
    return files


def measure(model: Path, files: dict[str, Path], args: argparse.Namespace) -> Row:
    """All engines on one model."""
    feed, threads = make_feed(model), args.threads
    engines: list[Engine] = [
        relaxc_engine(files[OURS], threads, OURS),
        openvino_engine(files[OPENVINO], threads, is_float32=False),
        onnxruntime_engine(files[ORT], threads),
        relaxc_engine(files[OURS_FLOAT], threads, OURS_FLOAT),
    ]
    for _ in range(args.rounds):
        for engine in engines:
            engine.measure(feed, args.seconds)
    names = (OURS, OPENVINO, ORT, OURS_FLOAT)
    return Row(
        model.stem,
        {name: min(engine.times_ms) for name, engine in zip(names, engines)},
        {name: statistics.median(engine.times_ms) for name, engine in zip(names, engines)},
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per model."""
    peers = (OPENVINO, ORT, OURS_FLOAT)
    heads = ["model", "relaxc int8", "OpenVINO int8", "ONNX Runtime QDQ", OURS_FLOAT]
    heads += ["of OpenVINO", "of ONNX Runtime", "of float32"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        times = [f"{row.min_ms[n]:.2f} / {row.median_ms[n]:.2f}" for n in (OURS, *peers)]
        ratios = [f"{row.ratio(p):.2f} / {row.ratio(p, 'median'):.2f}" for p in peers]
        lines.append("| " + " | ".join([row.model, *times, *ratios]) + " |")
    return "\n".join(lines)


def judge(rows: Sequence[Row], kind: str) -> list[Verdict]:
    """The project's bars."""
    openvino_ = {row.model: row.ratio(OPENVINO, kind) for row in rows}
    counted = [row for row in rows if row.model != "bert_base_s128"] or list(rows)
    found = [
        Verdict(
            f"geometric mean of {name}",
            statistics.geometric_mean(row.ratio(name, kind) for row in counted),
            bar,
        )
        for name, bar in ((OPENVINO, MEAN_OPENVINO), (ORT, MEAN_ORT))
    ]
    others = {name: ratio for name, ratio in openvino_.items() if name not in BERT}
    if others:
        worst = max(others, key=lambda name: others[name])
        found.append(Verdict(f"worst of OpenVINO, {worst}", others[worst], WORST))
    found += [
        Verdict(f"of OpenVINO, {n}", openvino_[n], WORST_BERT) for n in BERT if n in openvino_
    ]
    found += [
        Verdict(f"of float32, {row.model}", row.ratio(OURS_FLOAT, kind), WORST_FLOAT)
        for row in rows
        if row.model in HALVED
    ]
    return found


def main() -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", metavar="NAME", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="per engine and round")
    parser.add_argument("--speed-gate", action="store_true", help="layers not faster stay float")
    parser.add_argument("--cache", type=Path, help="keeps models, artifacts and what was measured")
    parser.add_argument("--prepare", action="store_true", help="compile anew, measure nothing")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        cache = args.cache or Path(scratch)
        cache.mkdir(exist_ok=True)
        for name in args.only:
            model = args.folder / f"{name}.onnx"
            files = prepare(model, cache, args.prepare, args.speed_gate)
            if not args.prepare:
                row = measure(model, files, args)
                (cache / f"{name}.{args.threads}.json").write_text(json.dumps(asdict(row)))
            print(f"{name}: done", file=sys.stderr, flush=True)
        rows = [Row(**json.loads(path.read_text())) for path in measured(cache, args.threads)]
    if args.prepare:
        return 0
    if not rows:
        parser.error("nothing was measured with this cache yet")
    print(f"{this_machine().cpu}, {args.threads} threads; minimum / median in milliseconds\n")
    print(table(rows))
    for kind in ("min", "median"):
        print(f"\nBy {kind}: " + "; ".join(map(str, judge(rows, kind))))
    if args.plot:
        from plot import plot_int8

        peers = {"OpenVINO int8": OPENVINO, "ONNX Runtime QDQ": ORT, OURS_FLOAT: OURS_FLOAT}
        ratios = {name: [row.ratio(peer) for row in rows] for name, peer in peers.items()}
        plot_int8([row.model for row in rows], ratios, args.plot)
    return 0


def measured(cache: Path, threads: int) -> list[Path]:
    """Results that are there, in the order of the models."""
    paths = [cache / f"{name}.{threads}.json" for name in MODELS]
    return [path for path in paths if path.exists()]


if __name__ == "__main__":
    sys.exit(main())
