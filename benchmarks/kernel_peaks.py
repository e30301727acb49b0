"""Measure each class of kernel against the machine's measured peak.

    python benchmarks/kernel_peaks.py [--only WORD ...] [--threads 1] [--json FILE]

Every class is a model of one operator (kernel_cases.py). The kernels that compute it are timed
inside of an inference, each at its fastest; copies between layouts, which a network around them
would not need, are left out. A kernel's bound is its arithmetic at the peak of multiply-adds or its
traffic at the bandwidth of the memory that its tensors fit into, whichever takes longer. Both are
measured anew just before and after it: neighbours take their part of the memory's bandwidth.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from kernel_cases import CASES, Case

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.errors import RelaxcError
from relaxc.measure.machine import this_machine
from relaxc.measure.profile import profile
from relaxc.measure.reference import run_reference
from relaxc.measure.roofline import Roofline, measure_roofline

LARGEST_ERROR = 1e-4
# Seconds for each number of the roofline.
_PEAK_S = 0.05
# What share of the peak is promised.
BARS = {"compute": 0.9, "memory": 0.8}


@dataclass(frozen=True)
class Row:
    """One class of kernel.

    Attributes:
        name, shape: what was run.
        kernels: names of the code, by time.
        us: microseconds at the fastest.
        gflops: billions of operations per second, counted as if computed directly.
        gbytes: billions of bytes per second.
        bound: `compute` or `memory`.
        peak_gflops, peak_gbytes: of the machine, the latter in main memory.
        of_peak: the least time possible, as a share of the time taken.
        error: relative norm of the difference to ONNX Runtime.
    """

    name: str
    shape: str
    kernels: list[str]
    us: float
    gflops: float
    gbytes: float
    bound: str
    peak_gflops: float
    peak_gbytes: float
    of_peak: float
    error: float


def measure(case: Case, threads: int, seconds: float, folder: Path) -> Row:
    """Compile, check and time one class."""
    import onnx

    source, artifact = folder / "case.onnx", folder / "case.rxc"
    onnx.save(case.model(), source)
    with quiet():
        relaxc.compile(source, artifact)
    model = relaxc.load(artifact, threads=threads)
    rng = np.random.default_rng(0)
    feed = {}
    for info in model.inputs:
        shape = [int(dim) for dim in info.shape]
        is_index = info.dtype == "int64"
        array = rng.integers(0, 1000, shape) if is_index else rng.standard_normal(shape)
        feed[info.name] = array.astype(info.dtype)
    ours = next(iter(model.run(feed).values()))
    theirs = next(iter(run_reference(source, feed).values()))
    begin = time.perf_counter()
    model.run(feed)
    took = time.perf_counter() - begin
    before = measure_roofline(threads, _PEAK_S)
    found = profile(model, feed, max(5, min(500, int(seconds / took))))
    peaks = better(before, measure_roofline(threads, _PEAK_S))
    kernels = sorted((k for k in found.kernels if k.nodes), key=lambda k: -k.min_s)
    flops, size = sum(k.flops or 0 for k in kernels), sum(k.bytes or 0 for k in kernels)
    least = [peaks.seconds(k.flops or 0, k.bytes or 0) for k in kernels]
    total = sum(kernel.min_s for kernel in kernels)
    return Row(
        name=case.name,
        shape=case.shape,
        kernels=list(dict.fromkeys(k.name.rstrip("0123456789") for k in kernels)),
        us=total * 1e6,
        gflops=flops / total / 1e9,
        gbytes=size / total / 1e9,
        bound=peaks.bound(flops, size),
        peak_gflops=peaks.flops_per_s() / 1e9,
        peak_gbytes=peaks.memory_bytes_per_s / 1e9,
        of_peak=sum(least) / total,
        error=float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
    )


def better(one: Roofline, other: Roofline) -> Roofline:
    """The higher of two measurements of every peak."""
    operations = {
        kind: max(rate, other.operations_per_s[kind]) for kind, rate in one.operations_per_s.items()
    }
    bandwidths = tuple(
        (limit, max(rate, again))
        for (limit, rate), (_, again) in zip(one.bandwidths, other.bandwidths)
    )
    return Roofline(one.threads, operations, bandwidths)


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per class."""
    lines = [
        "| kernel | shape | code | us | GFLOP/s | GB/s | bound | of peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        note = "" if row.of_peak >= BARS[row.bound] else " (below)"
        verdict = "" if row.error < LARGEST_ERROR else f" **differs by {row.error:.0e}**"
        rate = f"{row.gflops:.0f}" if row.gflops else ""
        lines.append(
            f"| {row.name} | {row.shape} | {', '.join(row.kernels[:2])} | {row.us:.1f} | {rate} "
            f"| {row.gbytes:.1f} | {_bound(row)} | {row.of_peak:.0%}{note}{verdict} |"
        )
    return "\n".join(lines)


def _bound(row: Row) -> str:
    if row.bound == "compute":
        return f"{row.peak_gflops:.0f} GFLOP/s"
    return f"memory, {row.peak_gbytes:.1f} GB/s"


def main() -> int:
    """Measure, print, and fail when a result differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="WORD", help="classes whose name has it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="per class")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows: list[Row] = []
    failures = []
    for case in CASES:
        if args.only and not any(word in case.name for word in args.only):
            continue
        with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as folder:
            try:
                rows.append(measure(case, args.threads, args.seconds, Path(folder)))
                print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
            except RelaxcError as err:
                failures.append(f"{case.name}: {err}")
                print(f"error: {failures[-1]}", file=sys.stderr, flush=True)
    machine = this_machine()
    print(f"{machine.cpu}, {args.threads} threads\n")
    print(table(rows))
    for failure in failures:
        print(f"\nFailed: {failure}")
    if args.json:
        document = {
            "machine": asdict(machine),
            "threads": args.threads,
            "rows": list(map(asdict, rows)),
        }
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(row.error < LARGEST_ERROR for row in rows) and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
