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
import itertools
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
    OURS_BF16,
    difference,
    make_feed,
    onnxruntime_engine,
    openvino_engine,
    relaxc_engine,
)
from suite import MODELS, Verdict, verdicts, verdicts_bf16

import relaxc
from relaxc import cpu
from relaxc.cli.quiet import quiet
from relaxc.errors import RelaxcError
from relaxc.layout import Precision
from relaxc.measure.machine import this_machine
from relaxc.measure.roofline import roofline

ENGINES = (OURS, ORT, OPENVINO, OURS_BF16, OPENVINO_BF16)
# Relative norm in float32. In bfloat16, with eight bits of mantissa, errors add up over the layers,
# by how much depends on the weights: they may be so many times those of OpenVINO's default.
LARGEST_ERROR, LARGEST_FACTOR_BF16 = 1e-3, 2.0


@dataclass(frozen=True)
class Row:
    """One model at one thread count and batch size.

    Attributes:
        model, threads, batch: what was run.
        min_ms, median_ms: by engine; without `relaxc bf16` where the CPU has no bfloat16.
        error: relative norm of relaxc's difference to ONNX Runtime.
        error_bf16: the same in bfloat16.
        error_openvino: the same of OpenVINO at its own choice of precision.
        roofline_ms: the least that arithmetic and compulsory memory traffic allow.
        compile_s: relaxc's time to compile the model.
    """

    model: str
    threads: int
    batch: int
    min_ms: dict[str, float]
    median_ms: dict[str, float]
    error: float
    error_bf16: float
    error_openvino: float
    roofline_ms: float
    compile_s: float

    @property
    def is_ok(self) -> bool:
        """Whether the outputs agree."""
        largest = LARGEST_FACTOR_BF16 * max(self.error_openvino, self.error)
        return self.error < LARGEST_ERROR and self.error_bf16 <= largest

    def ratio(self, times: dict[str, float]) -> float:
        """relaxc's time relative to the better float32 peer's."""
        return times[OURS] / min(times[ORT], times[OPENVINO])

    def ratio_bf16(self, times: dict[str, float]) -> float | None:
        """relaxc's time in bfloat16 relative to OpenVINO's at its own choice."""
        return times[OURS_BF16] / times[OPENVINO_BF16] if OURS_BF16 in times else None


def measure(
    model: Path, threads: Sequence[int], batch: int, args: argparse.Namespace
) -> Iterator[Row]:
    """All engines on one file, at every thread count."""
    feed = make_feed(model)
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as folder:
        artifacts = {OURS: Path(folder, "float32.rxc")}
        begin = time.perf_counter()
        manifest = compile_quietly(model, artifacts[OURS], "float32")
        compile_s = time.perf_counter() - begin
        if "avx512bf16" in cpu.features():
            artifacts[OURS_BF16] = Path(folder, "bfloat16.rxc")
            compile_quietly(model, artifacts[OURS_BF16], "bfloat16")
        for count in threads:
            engines = [
                *(relaxc_engine(path, count, name) for name, path in artifacts.items()),
                onnxruntime_engine(model, count),
                openvino_engine(model, count, is_float32=True),
                openvino_engine(model, count, is_float32=False),
            ]
            by_name = {engine.name: engine for engine in engines}
            wanted = by_name[ORT].run(feed)
            errors = {
                name: difference(by_name[name].run(feed), wanted)
                for name in (*artifacts, OPENVINO_BF16)
            }
            for _ in range(args.rounds):
                for engine in engines:
                    engine.measure(feed, args.seconds)
            yield Row(
                model=model.stem.removesuffix(f"_b{batch}"),
                threads=count,
                batch=batch,
                min_ms={e.name: min(e.times_ms) for e in engines},
                median_ms={e.name: statistics.median(e.times_ms) for e in engines},
                error=errors[OURS],
                error_bf16=errors.get(OURS_BF16, 0.0),
                error_openvino=errors[OPENVINO_BF16],
                roofline_ms=bound_s(manifest, feed, count) * 1e3,
                compile_s=compile_s,
            )


def compile_quietly(model: Path, output: Path, precision: Precision) -> dict[str, Any]:
    """Compile without tuning; returns the manifest."""
    with quiet():
        done = relaxc.compile(model, output, relaxc.CompileOptions(precision=precision))
    return done.manifest


def bound_s(manifest: dict[str, Any], feed: dict[str, Any], threads: int) -> float:
    """What one inference takes at least: its multiply-adds, or one look at weights and inputs."""
    flops = 2 * sum(layer["macs"] for layer in manifest["layers"])
    size = manifest["memory"]["weight_bytes"] + sum(array.nbytes for array in feed.values())
    return roofline(threads).seconds(flops, size)


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per model."""
    engines = [name for name in ENGINES if all(name in row.min_ms for row in rows)]
    heads = ["model", *engines[:3], "ratio", *engines[3:], "ratio bf16", "of roofline", "errors"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        times = [f"{row.min_ms[name]:.2f} / {row.median_ms[name]:.2f}" for name in engines]
        ratio = f"{row.ratio(row.min_ms):.2f} / {row.ratio(row.median_ms):.2f}"
        bf16 = [row.ratio_bf16(row.min_ms), row.ratio_bf16(row.median_ms)]
        ratio_bf16 = " / ".join("" if value is None else f"{value:.2f}" for value in bf16)
        share = f"{row.roofline_ms / row.min_ms[OURS]:.0%}"
        errors = (row.error, row.error_bf16, row.error_openvino)
        error = ", ".join(f"{e:.0e}" for e in errors) + ("" if row.is_ok else " **differs**")
        cells = [row.model, *times[:3], ratio, *times[3:], ratio_bf16, share, error]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def judge(rows: Sequence[Row]) -> dict[str, list[Verdict]]:
    """The promises, by minimum and by median."""
    found = {}
    for kind in ("minimum", "median"):
        times = [(row, row.min_ms if kind == "minimum" else row.median_ms) for row in rows]
        found[kind] = verdicts({row.model: row.ratio(t) for row, t in times})
        bf16 = {row.model: row.ratio_bf16(t) for row, t in times}
        known = {name: ratio for name, ratio in bf16.items() if ratio is not None}
        if known:
            found[kind] += verdicts_bf16(known)
    return found


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
                "ratio_bf16_min": row.ratio_bf16(row.min_ms),
                "ratio_bf16_median": row.ratio_bf16(row.median_ms),
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
    failures = []
    for name, batch in itertools.product(args.only, args.batch):
        path = args.folder / (f"{name}.onnx" if batch == 1 else f"{name}_b{batch}.onnx")
        try:
            for row in measure(path, args.threads, batch, args):
                rows.append(row)
                times = ", ".join(f"{engine} {ms:.2f}" for engine, ms in row.min_ms.items())
                note = f"{name}, {row.threads} threads, batch {batch}: {times} ms"
                print(note, file=sys.stderr, flush=True)
                # Written every time: a long run that is cut short is not lost.
                if args.json:
                    args.json.write_text(json.dumps(document(rows), indent=1) + "\n")
        except RelaxcError as err:
            failures.append(f"{path.name}: {err}")
            print(f"error: {failures[-1]}", file=sys.stderr, flush=True)
    machine = this_machine()
    print(f"{machine.cpu}, {machine.cores} cores; minimum / median in milliseconds\n")
    print(report(rows))
    if args.plot:
        from plot import plot_ratios

        plot_ratios(configurations(rows), args.plot)
    for failure in failures:
        print(f"\nFailed: {failure}")
    return 0 if all(row.is_ok for row in rows) and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
