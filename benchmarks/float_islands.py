"""What a quantized model still computes in float between its first and its last integer kernel.

    python benchmarks/float_islands.py ARTIFACT ... [--threads 2]

Kernels that multiply or move float32 alone, by kind: how many there are, and their share of the
time that all kernels take, each at its fastest.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import relaxc
from relaxc.measure.feeds import make_feed
from relaxc.measure.profile import KernelTime, profile

_RUNS = 30


def kind(kernel: KernelTime) -> str:
    """A kernel's name without its number."""
    return kernel.name.rstrip("0123456789").rstrip("_")


def islands(path: Path, threads: int) -> list[str]:
    """Rows of the table."""
    model = relaxc.load(path, threads=threads)
    kernels = profile(model, make_feed(model.inputs, {}), _RUNS).kernels
    integer = [i for i, kernel in enumerate(kernels) if kernel.dtype == "int8"]
    if not integer:
        return [f"| {path.stem} | no integer kernels | | |"]
    total = sum(kernel.min_s for kernel in kernels)
    found: dict[str, list[KernelTime]] = defaultdict(list)
    for kernel in kernels[integer[0] : integer[-1]]:
        if kernel.dtype != "int8":
            found[kind(kernel)].append(kernel)
    rows = []
    for name, members in sorted(found.items(), key=lambda item: -sum(k.min_s for k in item[1])):
        share = sum(kernel.min_s for kernel in members) / total
        nodes = ", ".join(members[0].nodes[:3]) or "conversions"
        rows.append(f"| {path.stem} | {name} ({nodes}) | {len(members)} | {share:.1%} |")
    return rows or [f"| {path.stem} | none | | |"]


def main() -> int:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifacts", type=Path, nargs="+", metavar="ARTIFACT")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print(
        "| model | float kernels (nodes of the first) | how many | of the time |\n|---|---|---|---|"
    )
    for path in args.artifacts:
        print("\n".join(islands(path, args.threads)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
