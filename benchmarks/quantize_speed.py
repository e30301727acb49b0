"""Measure int8 of relaxc against OpenVINO's (NNCF), ONNX Runtime's and our own float32.

    pip install -e .[bench] nncf
    python benchmarks/quantize_speed.py FOLDER [--only NAME ...] [--threads 2] [--cache FOLDER]

FOLDER holds what `benchmarks/export_models.py` wrote. Every engine quantizes the same model by its
own means and runs it on the same inputs, in turn; tables show minimum and median over all rounds.
`--prepare` stops before the measurement: with `--cache`, quantized models and artifacts are kept.
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


def prepare(model: Path, cache: Path, again: bool) -> dict[str, Path]:
    """Every engine's file, by engine."""
    files = {OURS: cache / f"{model.stem}.int8.rxc", OURS_FLOAT: cache / f"{model.stem}.rxc"}
    for name, path in files.items():
        if again or not path.exists():
            # Calibrated on noise, which says nothing of how exact a layer is.
            quantize = QuantizeOptions(least_sqnr_db=None) if name == OURS else None
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
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="per engine and round")
    parser.add_argument("--cache", type=Path, help="where quantized models and artifacts stay")
    parser.add_argument("--prepare", action="store_true", help="compile anew, measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        cache = args.cache or Path(scratch)
        cache.mkdir(exist_ok=True)
        models = [args.folder / f"{name}.onnx" for name in args.only]
        files = [prepare(model, cache, again=args.prepare) for model in models]
        if args.prepare:
            return 0
        rows: list[Row] = []
        for model, paths in zip(models, files):
            rows.append(measure(model, paths, args))
            print(f"{model.stem}: {rows[-1].min_ms}", file=sys.stderr, flush=True)
    machine = this_machine()
    print(f"{machine.cpu}, {args.threads} threads; minimum / median in milliseconds\n")
    print(table(rows))
    for kind in ("min", "median"):
        print(f"\nBy {kind}: " + "; ".join(map(str, judge(rows, kind))))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
