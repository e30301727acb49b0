"""Measure what pruning saves in time, against the same models with nothing removed.

    pip install -e .[bench]
    python benchmarks/prune_speed.py FOLDER [--only NAME ...] [--threads 2] [--cache FOLDER]

FOLDER holds what `benchmarks/export_models.py` wrote; vgg19 comes with the onnx package and gets
random weights. Half of the channels go by the norm of their weights, or eight and nine of ten
blocks become zero where the kernels gain by it; or half of the time of all kernels goes, as their
table says, which stands beside what was measured. Dense and pruned models run on the same inputs,
in turn, and ONNX Runtime's float32 beside the one that is quantized as well; the table shows
minimum and median over all rounds. `--prepare` stops before the measurement: with `--cache`,
artifacts are kept.
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

import onnx
from engines import ORT, OURS, Engine, make_feed, onnxruntime_engine, relaxc_engine
from light_models import light_model
from quantized_peers import samples
from suite import Verdict

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.measure.machine import this_machine
from relaxc.options import CompileOptions, PruneOptions, QuantizeOptions, SparsifyOptions

_HALF = PruneOptions(saving="channels", share=0.5)
# Weights are random: each group loses the same share, as if none mattered more.
_HALF_THE_TIME = PruneOptions(saving="latency", share=0.5)
_VGG = "vgg19"


@dataclass(frozen=True)
class Case:
    """A model, what is taken from it, and what it has to be faster than.

    Attributes:
        model: its name.
        what: is done to it, for the table.
        options: of the compilation.
        bar: of the peer's time; None: none is promised.
        peer: the dense model, or ONNX Runtime on it.
    """

    model: str
    what: str
    options: CompileOptions
    bar: float | None
    peer: str = OURS


def _blocks(share: float) -> CompileOptions:
    """Of all convolutions that gain by it, which are pointwise ones; the classifier stays dense."""
    sparsify = SparsifyOptions(share=share, blocks=True, exclude=("node_Gemm_.*",))
    return CompileOptions(sparsify=sparsify)


CASES = (
    Case("resnet18", "half of the channels", CompileOptions(prune=_HALF), 0.33),
    Case("resnet50", "half of the channels", CompileOptions(prune=_HALF), 0.33),
    Case(_VGG, "half of the channels", CompileOptions(prune=_HALF), 0.33),
    Case(
        "resnet50",
        "half of the channels, int8",
        # Calibrated on noise, which says nothing of how exact a layer is.
        CompileOptions(prune=_HALF, quantize=QuantizeOptions(least_sqnr_db=None)),
        0.12,
        ORT,
    ),
    Case("mobilenetv2", "80 % of blocks zero", _blocks(0.8), 0.65),
    Case("mobilenetv2", "90 % of blocks zero", _blocks(0.9), None),
    Case("resnet18", "half of the time", CompileOptions(prune=_HALF_THE_TIME), None),
    Case("mobilenetv2", "half of the time", CompileOptions(prune=_HALF_THE_TIME), None),
)
MODELS = tuple(dict.fromkeys(case.model for case in CASES))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        model, what, peer, bar: of the case.
        min_ms, median_ms: of the pruned model and of its peer.
        macs: what is left of the multiply-accumulates; None where no channels went.
        predicted: what is left of the time, as a table of latencies has it; None where none was
            asked for.
    """

    model: str
    what: str
    peer: str
    bar: float | None
    min_ms: tuple[float, float]
    median_ms: tuple[float, float]
    macs: float | None = None
    predicted: float | None = None

    def ratio(self, kind: str) -> float:
        """The pruned model's time by that of its peer."""
        ours, peer = self.min_ms if kind == "min" else self.median_ms
        return ours / peer


def model_file(name: str, folder: Path, cache: Path) -> Path:
    """Where a model lies; vgg19 is made."""
    if name != _VGG:
        return folder / f"{name}.onnx"
    path = cache / f"{name}.onnx"
    if not path.exists():
        onnx.save(light_model(name), path)
    return path


def compiled(case: Case | None, model: Path, cache: Path, again: bool) -> Path:
    """The artifact of a case, or of the dense model."""
    label = "dense" if case is None else "".join(c for c in case.what if c.isalnum())
    path = cache / f"{model.stem}.{label}.rxc"
    if again or not path.exists():
        options = CompileOptions() if case is None else case.options
        data = samples(model) if options.quantize is not None else None
        with quiet():
            done = relaxc.compile(model, path, options, calibration_data=data)
        left: dict[str, float] = {}
        if done.pruned is not None:
            left["macs"] = done.pruned.macs[1] / done.pruned.macs[0]
            if done.pruned.latency is not None:
                left["predicted"] = done.pruned.latency[1] / done.pruned.latency[0]
        path.with_suffix(".json").write_text(json.dumps(left))
    return path


def measure(case: Case, model: Path, cache: Path, args: argparse.Namespace) -> Row:
    """A pruned model and its peer, in turn."""
    artifact = compiled(case, model, cache, again=False)
    ours = relaxc_engine(artifact, args.threads, OURS)
    peer: Engine = (
        onnxruntime_engine(model, args.threads)
        if case.peer == ORT
        else relaxc_engine(compiled(None, model, cache, again=False), args.threads, OURS)
    )
    feed = make_feed(model)
    for _ in range(args.rounds):
        for engine in (ours, peer):
            engine.measure(feed, args.seconds)
    return Row(
        case.model,
        case.what,
        "dense" if case.peer == OURS else f"{ORT} float32",
        case.bar,
        (min(ours.times_ms), min(peer.times_ms)),
        (statistics.median(ours.times_ms), statistics.median(peer.times_ms)),
        **json.loads(artifact.with_suffix(".json").read_text()),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per case."""
    lines = ["| model | pruned | MACs | ms | peer | peer ms | of the peer's time | predicted |"]
    lines.append("|---" * 8 + "|")
    for row in rows:
        times = [f"{a:.2f} / {b:.2f}" for a, b in zip(row.min_ms, row.median_ms)]
        ratio = f"{row.ratio('min'):.2f} / {row.ratio('median'):.2f}"
        macs = "" if row.macs is None else f"{row.macs:.0%}"
        predicted = "" if row.predicted is None else f"{row.predicted:.2f}"
        cells = [row.model, row.what, macs, times[0], row.peer, times[1], ratio, predicted]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def judge(rows: Sequence[Row], kind: str) -> list[Verdict]:
    """The project's bars."""
    return [
        Verdict(f"{row.model}, {row.what}", row.ratio(kind), row.bar)
        for row in rows
        if row.bar is not None
    ]


def main() -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="per engine and round")
    parser.add_argument("--cache", type=Path, help="where artifacts stay")
    parser.add_argument("--prepare", action="store_true", help="compile anew, measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        cache = args.cache or Path(scratch)
        cache.mkdir(exist_ok=True)
        cases = [
            (c, model_file(c.model, args.folder, cache)) for c in CASES if c.model in args.only
        ]
        for case, model in cases:
            compiled(case, model, cache, args.prepare)
        for model in dict.fromkeys(model for case, model in cases if case.peer == OURS):
            compiled(None, model, cache, args.prepare)
        if args.prepare:
            return 0
        for case, model in cases:
            rows.append(measure(case, model, cache, args))
            print(f"{case.model}, {case.what}: {rows[-1].min_ms}", file=sys.stderr, flush=True)
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
