"""How much faster weights make a kernel when blocks of them are zero.

    python benchmarks/sparse_kernels.py [--only WORD ...] [--threads 2] [--scattered] [--gate]

Layers with seeded weights, of which 80 and 90 % are zero by blocks of one input and as many outputs
as a vector of this CPU holds, against the same layers with none. A kernel's time is its fastest
inside of an inference, without conversions of the model's inputs; all kernels of a layer are timed
in turns. `--scattered` sets single weights to zero, anywhere. `--gate` compiles weights of more
densities with and without their zeros, and compares the ratio with the estimate that decides which
kernel a model gets. `--cache FOLDER` keeps artifacts for the next time.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from kernel_cases import Case
from onnx import numpy_helper

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.measure.machine import this_machine
from relaxc.measure.profile import profile
from relaxc.runtime.model import Model
from relaxc.targets.llvm.groups import sparse
from relaxc.targets.llvm.machine import machine_of
from relaxc.targets.registry import backend_for

# Share of zeros -> time by that of the dense kernel, for products and pointwise convolutions.
BARS = {0.8: 0.40, 0.9: 0.25}
_GATE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_TURNS, _RUNS = 5, 20


def _product(rows: int, depth: int, columns: int, name: str = "GEMM") -> Case:
    body, weights = "p = MatMul(x, w) y = Add(p, b)", {"w": (depth, columns), "b": (columns,)}
    return Case(name, f"{rows}x{depth}x{columns}", f"float[{rows},{depth}] x", body, weights)


def _conv(depth: int, width: int, size: int, taps: int = 1, stride: int = 1) -> Case:
    name = "pointwise" if taps == 1 else "3x3"
    pads = f"{taps // 2},{taps // 2},{taps // 2},{taps // 2}"
    body = (
        f"c = Conv<kernel_shape=[{taps},{taps}], strides=[{stride},{stride}], "
        f"pads=[{pads}]>(x, w, b) y = Relu(c)"
    )
    shape = f"{depth} to {width}, {size}x{size}" + (f", stride {stride}" if stride > 1 else "")
    weights = {"w": (width, depth, taps, taps), "b": (width,)}
    return Case(name, shape, f"float[1,{depth},{size},{size}] x", body, weights)


CASES = (
    _product(768, 768, 768),
    _product(128, 1024, 1024),
    _product(128, 768, 3072),
    _product(128, 3072, 768),
    _product(1, 1024, 1024, "GEMV"),
    _product(1, 4096, 4096, "GEMV"),
    _conv(256, 512, 28),
    _conv(96, 24, 56),
    _conv(24, 144, 56),
    _conv(192, 32, 28),
    _conv(96, 576, 14),
    _conv(576, 96, 14),
    _conv(160, 960, 7),
    _conv(960, 320, 7),
    _conv(1024, 2048, 14, stride=2),
    _conv(64, 64, 56, 3),
    _conv(128, 128, 28, 3),
    _conv(512, 512, 7, 3),
    _conv(128, 128, 56, 3, 2),
)


def with_zeros(case: Case, share: float, lanes: int) -> onnx.ModelProto:
    """The layer with blocks of its weights at zero."""
    model = case.model()
    stored = next(w for w in model.graph.initializer if w.name == "w")
    weight = numpy_helper.to_array(stored).copy()
    matrix = weight.T if weight.ndim == 2 else weight.reshape(len(weight), -1)
    vectors, inputs = -(-len(matrix) // lanes), matrix.shape[1]
    dropped = np.zeros(vectors * inputs, np.bool_)
    order = np.random.default_rng(1).permutation(dropped.size)
    dropped[order[: round(share * dropped.size)]] = True
    matrix[np.repeat(dropped.reshape(vectors, inputs), lanes, axis=0)[: len(matrix)]] = 0
    stored.CopyFrom(numpy_helper.from_array(weight, "w"))
    return model


@contextlib.contextmanager
def forced(is_sparse: bool | None) -> Iterator[None]:
    """Whatever the estimates say; None leaves it to them."""
    limit = {None: sparse.WORTHWHILE, True: np.inf, False: 0.0}[is_sparse]
    with mock.patch.object(sparse, "WORTHWHILE", limit):
        yield


@dataclass(frozen=True)
class Kernels:
    """A layer, compiled in several ways.

    Attributes:
        case: the layer.
        paths: label -> artifact.
    """

    case: Case
    paths: dict[str, Path]

    @staticmethod
    def compile(
        case: Case, shares: tuple[float, ...], block: int, gate: bool, target: str, folder: Path
    ) -> Kernels:
        """Write the artifacts that are not there yet."""
        stem = "".join(c if c.isalnum() else "_" for c in f"{case.name} {case.shape}")
        paths: dict[str, Path] = {}
        for share in shares if gate else (0.0, *shares):
            for is_sparse in (True, False) if gate else (None,):
                label = f"{share} dense" if is_sparse is False else str(share)
                cpu = "".join(c if c.isalnum() else "_" for c in target)
                name = f"{stem}.{label.replace(' ', '_')}.{block}.{is_sparse}.{cpu}.rxc"
                path = paths[label] = folder / name
                if not path.exists():
                    options = relaxc.CompileOptions(target=target, tuning_records=None)
                    with quiet(), forced(is_sparse):
                        relaxc.compile(with_zeros(case, share, block), path, options)
        return Kernels(case, paths)

    def measure(self, threads: int) -> dict[str, float]:
        """Seconds of the layer's kernels."""
        models = {label: relaxc.load(path, threads=threads) for label, path in self.paths.items()}
        least = dict.fromkeys(models, np.inf)
        for _ in range(_TURNS):
            for label, model in models.items():
                least[label] = min(least[label], _seconds(model))
        return {label: float(seconds) for label, seconds in least.items()}


def _seconds(model: Model) -> float:
    (info,) = model.inputs
    shape = [int(dim) for dim in info.shape]
    data = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    kernels = profile(model, {info.name: data}, _RUNS).kernels
    return sum(kernel.min_s for kernel in kernels if kernel.nodes)


def bars(kernels: Kernels, block: int, threads: int) -> str:
    """A row of the table."""
    seconds = kernels.measure(threads)
    case = kernels.case
    cells = [case.name, case.shape, f"{seconds['0.0'] * 1e6:.1f}"]
    for share, bar in BARS.items():
        ratio = seconds[str(share)] / seconds["0.0"]
        has_bar = case.name in ("GEMM", "pointwise") and block > 1
        cells.append(f"{ratio:.2f}" + (" (missed)" if has_bar and ratio > bar else ""))
    return "| " + " | ".join(cells) + " |"


def gate(kernels: Kernels, _block: int, threads: int) -> str:
    """Measured and estimated ratios, and where the gate decides for the slower kernel."""
    seconds = kernels.measure(threads)
    cells = [kernels.case.name, kernels.case.shape]
    for share in _GATE:
        ratio = seconds[str(share)] / seconds[f"{share} dense"]
        entries = relaxc.load(kernels.paths[str(share)]).manifest["kernels"]
        found = next((e["sparsity"] for e in entries if "sparsity" in e), None)
        estimate = found["cost"] if found else np.inf
        is_wrong = max(ratio, 1 / ratio) > 1.05 and (ratio < 1) != (estimate < sparse.WORTHWHILE)
        cells.append(f"{ratio:.2f} / {estimate:.2f}" + (" (wrong)" if is_wrong else ""))
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="WORD", help="layers whose name has it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", default="llvm", help="to compile for; this CPU must run it")
    parser.add_argument("--scattered", action="store_true", help="zeros anywhere, not in blocks")
    parser.add_argument("--gate", action="store_true", help="hold estimates against times")
    parser.add_argument("--cache", type=Path, help="where artifacts stay")
    parser.add_argument("--prepare", action="store_true", help="stop before the measurement")
    args = parser.parse_args()
    names = [(case, f"{case.name} {case.shape}") for case in CASES]
    wanted = [c for c, name in names if not args.only or any(w in name for w in args.only)]
    shares = _GATE if args.gate else tuple(BARS)
    block = 1 if args.scattered else machine_of(backend_for(args.target).target).lanes
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(exist_ok=True)
        compiled = [
            Kernels.compile(case, shares, block, args.gate, args.target, folder) for case in wanted
        ]
        if args.prepare:
            return 0
        heads = ["layer", "shape"]
        heads += [f"{s:.0%}: measured / estimated" for s in _GATE] if args.gate else []
        heads += [] if args.gate else ["dense us", *(f"{s:.0%} zeros" for s in BARS)]
        print(f"{this_machine().cpu}, threads: {args.threads}\n")
        print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        for kernels in compiled:
            row = (gate if args.gate else bars)(kernels, block, args.threads)
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
