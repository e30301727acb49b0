"""Measure relaxc against ONNX Runtime and OpenVINO, interleaved in one run.

    pip install -e .[bench]
    python benchmarks/cpu.py FOLDER [--only NAME ...] [--threads 1 2] [--batch 1 8]
                             [--json FILE] [--plot FILE]

FOLDER holds what `benchmarks/export_models.py` wrote. Every engine runs the same file with the same
threads and inputs. A round gives each engine the same wall time in turn, so that a drift of the
machine's speed hits all alike; tables show minimum and median over all rounds. Outputs are checked
against ONNX Runtime's before anything is timed; the exit status is 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engines import (
    OPENVINO,
    OPENVINO_BF16,
    ORT,
    OURS,
    difference,
    make_feed,
    onnxruntime_engine,
    openvino_engine,
    relaxc_engine,
)
from suite import MODELS, Verdict, verdicts

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.measure.machine import this_machine
from relaxc.measure.roofline import roofline

ENGINES = (OURS, ORT, OPENVINO, OPENVINO_BF16)
LARGEST_ERROR = 1e-3


@dataclass(frozen=True)
class Row:
    """One model at one thread count and batch size.

    Attributes:
        model, threads, batch: what was run.
        min_ms, median_ms: by engine.
        error: relative norm of relaxc's difference to ONNX Runtime.
        roofline_ms: the least that arithmetic and compulsory memory traffic allow.
        compile_s: relaxc's time to compile the model.
    """

    model: str
    threads: int
    batch: int
    min_ms: dict[str, float]
    median_ms: dict[str, float]
    error: float
    roofline_ms: float
    compile_s: float

    @property
    def is_ok(self) -> bool:
        """Whether the outputs agree."""
        return self.error < LARGEST_ERROR

    def ratio(self, times: dict[str, float]) -> float:
        """relaxc's time relative to the better float32 peer's."""
        return times[OURS] / min(times[ORT], times[OPENVINO])


def measure(model: Path, threads: Sequence[int], batch: int, args: Any) -> Iterator[Row]:
    """All engines on one file, at every thread count."""
    feed = make_feed(model)
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as folder:
        artifact = Path(folder, "model.rxc")
        begin = time.perf_counter()
        with quiet():
            manifest = relaxc.compile(model, artifact).manifest
        compile_s = time.perf_counter() - begin
        for count in threads:
            engines = [
                relaxc_engine(artifact, count),
                onnxruntime_engine(model, count),
                openvino_engine(model, count, is_float32=True),
                openvino_engine(model, count, is_float32=False),
            ]
            error = difference(engines[0].run(feed), engines[1].run(feed))
            for _ in range(args.rounds):
                for engine in engines:
                    engine.measure(feed, args.seconds)
            times = {engine.name: engine.times_ms for engine in engines}
            yield Row(
                model=model.stem.removesuffix(f"_b{batch}"),
                threads=count,
                batch=batch,
                min_ms={name: min(times[name]) for name in ENGINES},
                median_ms={name: statistics.median(times[name]) for name in ENGINES},
                error=error,
                roofline_ms=bound_s(manifest, feed, count) * 1e3,
                compile_s=compile_s,
            )


def bound_s(manifest: dict[str, Any], feed: dict[str, Any], threads: int) -> float:
    """What one inference takes at least: its multiply-adds, or one look at weights and inputs."""
    flops = 2 * sum(layer["macs"] for layer in manifest["layers"])
    size = manifest["memory"]["weight_bytes"] + sum(array.nbytes for array in feed.values())
    return roofline(threads).seconds(flops, size)


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per model."""
    heads = ("model", *ENGINES, "ratio", "of roofline", "error")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [f"{row.min_ms[name]:.2f} / {row.median_ms[name]:.2f}" for name in ENGINES]
        ratio = f"{row.ratio(row.min_ms):.2f} / {row.ratio(row.median_ms):.2f}"
        share = f"{row.roofline_ms / row.min_ms[OURS]:.0%}"
        verdict = f"{row.error:.0e}" + ("" if row.is_ok else " **differs**")
        lines.append(f"| {row.model} | " + " | ".join([*cells, ratio, share, verdict]) + " |")
    return "\n".join(lines)


def judge(rows: Sequence[Row]) -> dict[str, list[Verdict]]:
    """The promises, by minimum and by median."""
    return {
        "minimum": verdicts({row.model: row.ratio(row.min_ms) for row in rows}),
        "median": verdicts({row.model: row.ratio(row.median_ms) for row in rows}),
    }


def configurations(rows: Sequence[Row]) -> dict[tuple[int, int], list[Row]]:
    """Rows by (threads, batch)."""
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.threads, row.batch), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: (item[0][1], -item[0][0])))


def report(rows: Sequence[Row]) -> str:
    """All tables and promises."""
    parts = []
    for (threads, batch), group in configurations(rows).items():
        parts.append(f"### {threads} thread{'s' * (threads > 1)}, batch {batch}")
        parts.append(table(group))
        for kind, found in judge(group).items():
            parts.append(f"By {kind}: " + "; ".join(map(str, found)))
    return "\n\n".join(parts)


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """The machine-readable form."""
    packages = ("relaxc", "apache-tvm", "onnxruntime", "openvino")
    return {
        "machine": asdict(this_machine()),
        "roofline": [asdict(roofline(n)) for n in sorted({row.threads for row in rows})],
        "versions": {name: version(name) for name in packages},
        "rows": [
            {
                **asdict(row),
                "ratio_min": row.ratio(row.min_ms),
                "ratio_median": row.ratio(row.median_ms),
            }
            for row in rows
        ],
        "verdicts": [
            {"threads": threads, "batch": batch, "by": kind, **asdict(verdict)}
            for (threads, batch), group in configurations(rows).items()
            for kind, found in judge(group).items()
            for verdict in found
        ],
    }


def main() -> int:
    """Measure, print, and fail when an output differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.25, help="per engine and round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a .svg or .png")
    args = parser.parse_args()
    rows: list[Row] = []
    for name in args.only:
        for batch in args.batch:
            path = args.folder / (f"{name}.onnx" if batch == 1 else f"{name}_b{batch}.onnx")
            for row in measure(path, args.threads, batch, args):
                rows.append(row)
                times = ", ".join(f"{k} {row.min_ms[k]:.2f}" for k in ENGINES)
                note = f"{name}, {row.threads} threads, batch {batch}: {times} ms"
                print(note, file=sys.stderr, flush=True)
                # Written every time: a long run that is cut short is not lost.
                if args.json:
                    args.json.write_text(json.dumps(document(rows), indent=1) + "\n")
    machine = this_machine()
    print(f"{machine.cpu}, {machine.cores} cores; minimum / median in milliseconds\n")
    print(report(rows))
    if args.plot:
        from plot import plot_ratios

        plot_ratios(configurations(rows), args.plot)
    return 0 if all(row.is_ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
