"""One transformer layer on two NVIDIA GPUs beside one: compile anywhere, measure where they are.

    python benchmarks/gpu_divided.py prepare FOLDER            # needs TVM, no GPU
    python FOLDER/travel/gpu_divided.py measure FOLDER/travel  # needs two GPUs and torch, no TVM

Each network is compiled for one GPU, and divided among two. `measure` compares the results of both,
on fresh inputs and on the same ones many times, and times calls with tensors on the GPUs in turn.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gpu_builders import OnnxNet
from gpu_models import NETS, example, llama
from gpu_speed import PRECISIONS, pack

ROUNDS, SECONDS, REPEATED = 7, 0.2, 300
# What is only compared: sums of eight megabytes, which take several rounds, and of a few numbers.
CHECKS: dict[str, Callable[[Any], Any]] = {
    "long": lambda net: llama(net, 2048, 0, width=1024, heads=8, hidden=512),
    "short": lambda net: llama(net, 3, 5, width=256, heads=4, hidden=512),
}
TIMED = ("llama_prefill512", "llama_decode1024")
CASES = {name: ("float16", NETS[name]) for name in TIMED}
CASES |= {name: ("float32", build) for name, build in CHECKS.items()}


def prepare(folder: Path, arch: str, only: list[str]) -> None:
    """Compile, and collect what must travel."""
    from relaxc.compiler import compile
    from relaxc.options import CompileOptions

    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    for name, (precision, build) in CASES.items():
        if only and name not in only:
            continue
        net = OnnxNet()
        model = net.model(build(net))
        chosen: Any = precision
        io: Any = "model" if precision == "float32" else precision
        for ranks in (1, 2):
            options = CompileOptions(
                target=f"cuda -arch={arch}", precision=chosen, io=io, tensor_parallel=ranks
            )
            compile(model, folder / "artifacts" / f"{name}.{ranks}.rxc", options)
            print(f"{name} on {ranks}", flush=True)
    pack(folder)
    shutil.copy(Path(__file__), folder / "travel")


def measure(folder: Path, only: list[str], *, profiled: bool) -> int:
    """Compare and time everything in the folder; returns how many results were wrong."""
    sys.path.insert(0, str(folder / "site"))
    import torch

    print(torch.cuda.get_device_name(0), torch.cuda.get_device_name(1), flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(folder / "artifacts.tar.xz") as archive:
            archive.extractall(scratch, filter="data")
        rows: list[list[str]] = []
        for name in [n for n in CASES if (not only or n in only)]:
            if Path(scratch, f"{name}.2.rxc").is_file():
                wrong += _measure_one(Path(scratch), name, rows, profiled)
    print("| layer | one GPU | two | ratio | difference |\n|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return wrong


def _measure_one(folder: Path, name: str, rows: list[list[str]], profiled: bool) -> int:
    import relaxc

    precision, build = CASES[name]
    net = OnnxNet()
    build(net)
    began = time.perf_counter()
    models: dict[int, Any] = {
        ranks: relaxc.load(folder / f"{name}.{ranks}.rxc", device, cache_dir=folder / "cache")
        for ranks, device in ((1, "cuda:0"), (2, "cuda:0,1"))
    }
    print(f"{name}: loaded in {time.perf_counter() - began:.1f} s", flush=True)
    dtypes = {info.name: info.dtype for info in models[1].inputs}
    feed = {k: v.astype(dtypes[k]) for k, v in example(net.inputs).items()}
    differences = []
    for scale in (1.0, 0.5):  # fresh values: a replayed graph must read them
        fresh = {k: v if k == "mask" else (v * scale).astype(v.dtype) for k, v in feed.items()}
        one, two = (_first(models[ranks].run(fresh)).astype(np.float64) for ranks in (1, 2))
        differences.append(float(np.linalg.norm(two - one) / np.linalg.norm(one)))
    difference = max(differences)
    bound = PRECISIONS[precision]
    taken = {
        ranks: {k: model.put(v, k) for k, v in feed.items()} for ranks, model in models.items()
    }
    expected = _first(models[2].run(taken[2])).numpy()
    unequal = 0
    for _ in range(REPEATED):
        result = _first(models[2].run(taken[2]))
        parts = [part.numpy() for part in result.parts]
        unequal += not all(np.array_equal(part, expected) for part in parts)
    print(f"  difference {difference:.1e}, unequal {unequal} of {REPEATED}", flush=True)
    if name in TIMED:
        calls = {ranks: _call(models[ranks], taken[ranks]) for ranks in models}
        times = _interleaved(models, calls)
        print({k: [round(t * 1e3, 4) for t in v] for k, v in times.items()}, flush=True)
        one_ms, two_ms = (statistics.median(times[ranks]) * 1e3 for ranks in (1, 2))
        row = [name, f"{one_ms:.3f}", f"{two_ms:.3f}", f"{two_ms / one_ms:.2f}"]
        rows.append([*row, f"{difference:.1e}"])
        if profiled:
            from gpu_speed import _profile

            _profile(calls[2])
    return int(not difference <= bound) + (unequal > 0)


def _call(model: Any, feed: dict[str, Any]) -> Callable[[], Any]:
    return lambda: model.run(feed)


def _first(result: Any) -> Any:
    return next(iter(result.values()))


def _interleaved(
    models: dict[int, Any], calls: dict[int, Callable[[], Any]]
) -> dict[int, list[float]]:
    """Seconds per call on one GPU and on two, in turn, round by round."""

    def seconds(ranks: int, count: int) -> float:
        models[ranks].synchronize()
        began = time.perf_counter()
        for _ in range(count):
            calls[ranks]()
        models[ranks].synchronize()
        return (time.perf_counter() - began) / count

    counts = {}
    for ranks in calls:
        seconds(ranks, 20)
        counts[ranks] = max(20, int(SECONDS / seconds(ranks, 20)))
    found: dict[int, list[float]] = {ranks: [] for ranks in calls}
    for _ in range(ROUNDS):
        for ranks in calls:
            found[ranks].append(seconds(ranks, counts[ranks]))
    return found


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("prepare", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--profile", action="store_true", help="show where a call's time goes")
    args = parser.parse_args()
    if args.action == "prepare":
        prepare(args.folder, args.arch, args.only)
        return 0
    return 1 if measure(args.folder, args.only, profiled=args.profile) else 0


if __name__ == "__main__":
    sys.exit(main())
