"""How much accuracy pruning costs: a table for a classifier and its images.

    python benchmarks/prune.py MODEL.onnx IMAGES.npz --mean 0.485 0.456 0.406 \\
        --std 0.229 0.224 0.225

The file holds `x` (uint8, N x H x W x 3) and `y` (classes). After a fixed shuffle the first half
tests; of the other half, without labels, come the samples that channels and weights are judged and
corrected by. `--also FILE.npz` tests with all images of another file. Each line is compiled and run
as users do it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from plot import plot_drops

import relaxc
from relaxc.options import (
    CompileOptions,
    Diagnostics,
    DistillOptions,
    PruneOptions,
    SparsifyOptions,
)
from relaxc.runtime.model import Model


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: what it is called.
        options: of the compilation.
        bar: points that it may lose; None: nothing is promised.
    """

    name: str
    options: CompileOptions
    bar: float | None = None

    def verdict(self, lost: Sequence[float]) -> str:
        """What came of the promise, on each set of images."""
        if self.bar is None:
            return ""
        return f" (bar {self.bar:g}: {'ok' if max(lost) <= self.bar else 'MISSED'})"


def cases(round_to: int, epochs: int) -> list[Case]:
    """Dense, then channels and weights, each bare and with all we can do without labels."""
    found = [Case("dense", CompileOptions())]
    for share in (0.3, 0.5):
        bare = PruneOptions(saving="macs", share=share, round_to=round_to)
        corrected = PruneOptions(
            saving="macs",
            share=share,
            round_to=round_to,
            importance="obs",
            scope="global",
            recover=True,
        )
        found.append(Case(f"macs={share} l2", CompileOptions(prune=bare)))
        found.append(Case(f"macs={share} obs, recovered", CompileOptions(prune=corrected)))
        trained = replace(
            corrected,
            distill=DistillOptions(
                epochs=epochs, learning_rate=0.006, augment=("flip", "shift", "mix")
            ),
        )
        bar = {0.3: 1.0, 0.5: 3.0}[share]
        found.append(Case(f"macs={share} obs, distilled", CompileOptions(prune=trained), bar))
    for criterion in ("magnitude", "wanda", "obs"):
        half = SparsifyOptions(share=0.5, criterion=criterion)
        pairs = SparsifyOptions(pattern=(2, 4), criterion=criterion)
        found.append(Case(f"unstructured=0.5 {criterion}", CompileOptions(sparsify=half)))
        found.append(Case(f"2:4 {criterion}", CompileOptions(sparsify=pairs)))
    for name, kept in (("unstructured=0.5", None), ("2:4", (2, 4))):
        share = 0.0 if kept else 0.5
        best = SparsifyOptions(share=share, pattern=kept, criterion="obs", recover=True)
        bar = 1.0 if kept else 0.5
        found.append(Case(f"{name} obs, recovered", CompileOptions(sparsify=best), bar))
    return found


def read(path: Path, mean: Sequence[float], std: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Images as the model reads them, and their classes."""
    held = np.load(path)
    pixels = held["x"].transpose(0, 3, 1, 2) / 255.0
    shift, scale = (np.reshape(v, (3, 1, 1)) for v in (mean, std))
    return ((pixels - shift) / scale).astype(np.float32), held["y"]


def accuracy(model: Model, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose highest score is that of their class."""
    parts = [model(images[i : i + 100]) for i in range(0, len(images), 100)]
    return float((np.concatenate(parts).argmax(1) == labels).mean())


def main() -> None:
    """Print the table, or one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--also", type=Path, help="more images to test with")
    parser.add_argument("--input", default="input", help="name of the model's input")
    parser.add_argument("--mean", type=float, nargs=3, default=(0.0, 0.0, 0.0))
    parser.add_argument("--std", type=float, nargs=3, default=(1.0, 1.0, 1.0))
    parser.add_argument("--samples", type=int, default=1000, help="unlabelled images to use")
    parser.add_argument("--round-to", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=80, help="of distillation")
    parser.add_argument("--checkpoint", type=Path, help="folder that keeps states of distillation")
    parser.add_argument("--only", help="cases whose name has this in it, beside `dense`")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what each case loses")
    args = parser.parse_args()
    images, labels = read(args.images, args.mean, args.std)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    half = len(labels) // 2
    rest = images[half : half + args.samples]
    samples = [{args.input: image[None]} for image in rest]
    tests = [(images[:half], labels[:half])]
    if args.also:
        tests.append(read(args.also, args.mean, args.std))
    if args.checkpoint:
        args.checkpoint.mkdir(exist_ok=True)
    drops: dict[str, list[float]] = {}
    dense: list[float] = []
    for case in cases(args.round_to, args.epochs):
        if args.only and args.only not in case.name and case.name != "dense":
            continue
        start = perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.rxc"
            diagnostics = Diagnostics()
            if args.checkpoint:
                state = args.checkpoint / (case.name.replace(" ", "_") + ".npz")
                diagnostics = Diagnostics(checkpoint=state)
            done = relaxc.compile(
                args.model, path, case.options, diagnostics, recovery_data=samples
            )
            took = perf_counter() - start
            model = relaxc.load(path)
            top1 = [accuracy(model, *test) for test in tests]
        dense = dense or top1
        lost = drops[case.name] = [100 * (a - b) for a, b in zip(dense, top1)]
        macs = 1.0 if done.pruned is None else done.pruned.macs[1] / done.pruned.macs[0]
        if args.json:
            line = {"case": case.name, "top1": top1, "macs": macs, "seconds": took}
            print(json.dumps(line), flush=True)
        else:
            shown = ", ".join(f"{s:.1%} ({-points:+.1f})" for s, points in zip(top1, lost))
            shown += case.verdict(lost)
            print(f"{case.name:28} top-1 {shown}  MACs {macs:.0%}  {took:.0f} s", flush=True)
    if args.plot:
        del drops["dense"]
        plot_drops(drops, args.plot)


if __name__ == "__main__":
    main()
