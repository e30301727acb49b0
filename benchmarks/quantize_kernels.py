"""int8 kernels against the measured peak of byte products, and against float32.

    python benchmarks/quantize_kernels.py [--only WORD ...] [--threads 1] [--cache FOLDER]

Classes of kernel_cases.py, quantized statically, for this CPU and for one with AVX2 alone, whose
code runs here too. A kernel's time is its fastest inside of an inference, without conversions of
the model's inputs; the peak is measured before and after it. Without VNNI there is no peak to hold
kernels to, and the time in float32 is what they compare with. Errors are relative norms of the
difference to ONNX Runtime's float32: products that saturate would show.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from kernel_cases import CASES, Case
from kernel_peaks import better

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.measure.machine import this_machine
from relaxc.measure.profile import profile
from relaxc.measure.reference import run_reference
from relaxc.measure.roofline import measure_roofline
from relaxc.options import QuantizeOptions

_NAMES = (
    *("GEMM", "GEMV", "convolution, Winograd", "convolution, direct", "convolution, pointwise"),
    *("convolution, strided", "convolution, grouped", "convolution, depthwise"),
    *("convolution, first layer", "convolution, transposed"),
)
_WIDE = Case(
    "GEMM, wide", "128x768x3072", "float[128,768] x", "y = MatMul(x, w)", {"w": (768, 3072)}
)
TARGETS = {"this CPU": "llvm", "AVX2": "llvm -mcpu=haswell"}
# Of the peak of byte products, where arithmetic is what bounds a kernel.
BAR = 0.85
LARGEST_ERROR = 0.03
_PEAK_S, _RUNS = 0.05, 200


@dataclass(frozen=True)
class Files:
    """One class, compiled.

    Attributes:
        case: which.
        model: the ONNX file.
        artifacts: by target and whether it is quantized.
    """

    case: Case
    model: Path
    artifacts: dict[tuple[str, bool], Path]


def feed(case: Case) -> dict[str, np.ndarray]:
    """Data like those behind a ReLU: never negative."""
    value_info = case.model().graph.input[0]
    shape = [dim.dim_value for dim in value_info.type.tensor_type.shape.dim]
    noise = np.random.default_rng(1).standard_normal(shape)
    return {"x": np.maximum(noise, 0).astype(np.float32)}


def prepare(case: Case, folder: Path, again: bool) -> Files:
    """Compile a class for all targets; what has been compiled before, only `again`."""
    stem = "".join(c if c.isalnum() else "_" for c in case.name)
    files = Files(case, folder / f"{stem}.onnx", {})
    onnx.save(case.model(), files.model)
    for label, target in TARGETS.items():
        for is_integer in (True, False):
            path = (
                folder / f"{stem}.{label.replace(' ', '_')}.{'int8' if is_integer else 'f32'}.rxc"
            )
            files.artifacts[label, is_integer] = path
            if path.exists() and not again:
                continue
            # Biases would make up for all that the one sample loses.
            plain = QuantizeOptions(speed_gate=False, least_sqnr_db=None, correct=())
            quantize = plain if is_integer else None
            options = relaxc.CompileOptions(target=target, quantize=quantize)
            data = [feed(case)] * 8 if is_integer else None
            with quiet():
                relaxc.compile(files.model, path, options, calibration_data=data)
    return files


def measure(files: Files, threads: int) -> list[str]:
    """Rows of the table, one per target."""
    data = feed(files.case)
    wanted = next(iter(run_reference(files.model, data).values()))
    rows = []
    for label in TARGETS:
        seconds, operations, error = {}, 0, 0.0
        peaks = measure_roofline(threads, _PEAK_S)
        for is_integer in (True, False):
            model = relaxc.load(files.artifacts[label, is_integer], threads=threads)
            kernels = [k for k in profile(model, data, _RUNS).kernels if k.nodes]
            seconds[is_integer] = sum(k.min_s for k in kernels)
            if is_integer:
                peaks = better(peaks, measure_roofline(threads, _PEAK_S))
                operations = sum(k.flops or 0 for k in kernels)
                moved = sum(k.bytes or 0 for k in kernels)
                bound = peaks.bound(operations, moved, "int8")
                least = peaks.seconds(operations, moved, "int8")
                actual = next(iter(model.run(data).values()))
                error = float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted))
        share = f"{least / seconds[True]:.0%} of {bound}" if label == "this CPU" else "-"
        if label == "this CPU" and bound == "compute" and least / seconds[True] < BAR:
            share += " (below)"
        cells = [
            files.case.name,
            files.case.shape,
            label,
            f"{seconds[True] * 1e6:.1f}",
            f"{operations / seconds[True] / 1e9:.0f}",
            share,
            f"{seconds[False] * 1e6:.1f}",
            f"{seconds[True] / seconds[False]:.2f}",
            f"{error:.0e}" + (" **wrong**" if error > LARGEST_ERROR else ""),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="WORD", help="classes whose name has it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="where models and artifacts stay")
    parser.add_argument("--prepare", action="store_true", help="compile anew, measure nothing")
    args = parser.parse_args()
    cases = [case for case in (*CASES, _WIDE) if case.name in (*_NAMES, _WIDE.name)]
    cases = [c for c in cases if not args.only or any(word in c.name for word in args.only)]
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(exist_ok=True)
        files = [prepare(case, folder, args.prepare) for case in cases]
        if args.prepare:
            return 0
        print(f"{this_machine().cpu}, threads: {args.threads}\n")
        heads = (
            "kernel",
            "shape",
            "code for",
            "us",
            "GOP/s",
            "of peak",
            "float32 us",
            "ratio",
            "error",
        )
        print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        wrong = False
        for item in files:
            rows = measure(item, args.threads)
            print("\n".join(rows), flush=True)
            wrong |= any("wrong" in row for row in rows)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
