"""How ResNet-50 at batch 32 scales from one NVIDIA GPU to two, by one caller.

python benchmarks/gpu_speed.py prepare FOLDER --only resnet50_b32  # needs TVM, no GPU
python FOLDER/travel/gpu_scale.py FOLDER/travel                    # needs two GPUs, no TVM
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def scale(folder: Path, rounds: int = 5) -> int:
    """Time ResNet-50 on one GPU and on two, by one caller; returns 1 if results differ.

    With images on the host, whose copies are timed, too; and with images that were put on the GPUs.
    """
    sys.path.insert(0, str(folder / "site"))
    import relaxc

    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(folder / "artifacts.tar.xz") as archive:
            archive.extract("resnet50_b32.float16.rxc", scratch, filter="data")
        path = Path(scratch, "resnet50_b32.float16.rxc")
        one, two = (
            relaxc.load(path, device=device, cache_dir=Path(scratch, "cache"))
            for device in ("cuda:0", "cuda:0,1")
        )
        images = np.random.default_rng(0).standard_normal((64, 3, 224, 224)).astype(np.float16)
        calls: dict[str, Callable[[], Any]] = {}
        calls["one"], calls["two"] = lambda: one(images[:32]), lambda: two(images)
        there = one.put(images[:32]), two.put(images)
        calls["one, put"], calls["two, put"] = lambda: one(there[0]), lambda: two(there[1])
        want = np.concatenate([one(images[:32]), one(images[32:])])
        same = all(np.array_equal(want, got) for got in (two(images), two(there[1]).numpy()))
        rates: dict[str, list[float]] = {key: [] for key in calls}
        for _ in range(rounds):
            for key, call in calls.items():
                call()
                began, count = time.perf_counter(), 0
                while time.perf_counter() - began < 1:
                    for _ in range(20):  # calls with images on GPUs return before these are done
                        call()
                    one.synchronize()
                    two.synchronize()
                    count += 20
                images_each = 32 if key.startswith("one") else 64
                rates[key].append(count * images_each / (time.perf_counter() - began))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    ratios = [f"{medians['two' + k] / medians['one' + k]:.2f}" for k in ("", ", put")]
    print(f"images per second: {medians}, ratios {', '.join(ratios)}, same {same}")
    return 0 if same else 1


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    return scale(args.folder, args.rounds)


if __name__ == "__main__":
    sys.exit(main())
