"""Memory while a model is calibrated, by the number of samples.

    python benchmarks/calibration_memory.py MODEL.onnx [--samples 10000]

The resident memory of the process after the first hundred samples, when everything that runs is
there, and the most of it until the last one; samples are made one by one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import relaxc
from relaxc.measure.feeds import make_feed
from relaxc.options import CompileOptions, QuantizeOptions
from relaxc.runtime.model import TensorInfo

_WARM = 100
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def main() -> int:
    """Print the table; fail beyond 1.5."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    args = parser.parse_args()
    seen: list[int] = []

    def samples(inputs: Sequence[TensorInfo]) -> Iterator[dict[str, np.ndarray]]:
        one = {name: np.asarray(array) for name, array in make_feed(list(inputs), {}).items()}
        rng = np.random.default_rng(0)
        for _ in range(args.samples):
            yield {
                name: rng.standard_normal(a.shape).astype(a.dtype) if a.dtype.kind == "f" else a
                for name, a in one.items()
            }
            seen.append(resident())

    options = CompileOptions(quantize=QuantizeOptions(speed_gate=False, correct=()))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as folder:
        relaxc.compile(args.model, Path(folder) / "m.rxc", options, calibration_data=samples)
    took = time.perf_counter() - start
    first, most = seen[min(_WARM, len(seen)) - 1], max(seen)
    print("| model | samples | after 100, MiB | most, MiB | ratio | seconds |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {args.model.stem} | {len(seen)} | {first / 2**20:.0f} | {most / 2**20:.0f} "
        f"| {most / first:.2f} | {took:.0f} |"
    )
    return 0 if most <= 1.5 * first else 1


if __name__ == "__main__":
    raise SystemExit(main())
