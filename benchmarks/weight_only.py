"""Weight-only products against ONNX Runtime's MatMulNBits and the memory's bandwidth.

    python benchmarks/weight_only.py [--threads 2] [--rows 1 ...] [--columns 4096 ...]

In slices, where others use the machine, too: `--cache CACHE --prepare` first, then `--cache CACHE`
and some `--columns`, `--weights` or `--groups`.

Two matrices (their weights fit the last-level cache, or do not), eight products in a row, and one
that takes no time beside its call, in groups of 32 and 128, of four and eight bits; scales have
eight significant bits, as those that `int4-weights` and `fp8-weights` make. ONNX Runtime runs at
accuracy levels 0 (float32 arithmetic) and 4 (the data become int8 too), relaxc as it is and with
`int8-dynamic`; the ratios compare like with like. Float8 (e4m3fn) has neither int8 data nor a
MatMulNBits: ONNX Runtime runs DequantizeLinear and MatMul.
Engines take turns; minimum over all rounds, in microseconds of a product: single ones include the
call from Python. The share of the bandwidth counts packed weights and scales, against reading as
many bytes, measured in between; the least ratio is what all of the bandwidth would give, and no
time for calls.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.measure.machine import this_machine
from relaxc.measure.roofline import measure_roofline
from relaxc.options import QuantizeOptions

# Depth, columns, products in a row; the first says what a call takes.
SIZES = ((128, 128, 1), (4096, 4096, 1), (2048, 2048, 8), (4096, 32768, 1))
OURS = ("relaxc", "relaxc dynamic")
ORT = ("ORT level 0", "ORT level 4")
KINDS = ("int4", "int8", "float8")
FLOAT8 = ml_dtypes.float8_e4m3fn
# Of accuracy: float32 arithmetic, and the data as int8.
_LEVELS = (0, 4)
_SCALE_BYTES = 2


@dataclass(frozen=True)
class Case:
    """Products of float32 rows by quantized weights in groups, each of the one before's result.

    Attributes:
        rows, depth, columns: of a product.
        products: how many there are, in a row; with more than one, matrices are square.
        kind: of weights.
        group: rows of a weight that share a scale.
    """

    rows: int
    depth: int
    columns: int
    products: int
    kind: str
    group: int

    @property
    def bits(self) -> int:
        """Of a weight."""
        return int(self.kind[-1])

    @property
    def engines(self) -> tuple[str, ...]:
        """Who computes it."""
        return (OURS[0], ORT[0]) if self.kind == "float8" else (*OURS, *ORT)

    @property
    def name(self) -> str:
        """As in the table."""
        shape = f"{self.rows}x{self.depth}x{self.columns}"
        return f"{self.products} of {shape}" if self.products > 1 else shape

    @property
    def size_bytes(self) -> int:
        """Of packed weights and scales of all products."""
        weights = self.depth * self.columns * self.products
        return weights * self.bits // 8 + weights // self.group * _SCALE_BYTES

    def models(self) -> tuple[onnx.ModelProto, onnx.ModelProto, onnx.ModelProto]:
        """Of DequantizeLinear and MatMul, and of MatMulNBits at each level.

        All of float8 are of the first kind.
        """
        rng = np.random.default_rng(0)
        nodes: list[list[onnx.NodeProto]] = [[], [], []]
        plain: dict[str, np.ndarray] = {"shape": np.array([self.columns, self.depth])}
        packed: dict[str, np.ndarray] = {}
        for i in range(self.products):
            shape = (self.columns, self.depth // self.group, self.group)
            integers = rng.integers(0, 1 << self.bits, shape).astype(np.uint8)
            scale = rng.uniform(0.5, 1.5, integers[..., 0].size).astype(np.float32)
            scale /= self.depth**0.5 * (1 << self.bits - 2)
            scale = (scale.view(np.uint32) & 0xFFFF0000).view(np.float32)
            zero = np.full(scale.size, 1 << (self.bits - 1), np.uint8)
            if self.kind == "float8":
                integers = rng.standard_normal(shape).astype(FLOAT8)
                zero = np.zeros(scale.size, FLOAT8)
            q, s, z, d, r, w = (f"{name}{i}" for name in "qszdrw")
            x, y = "x" if i == 0 else f"y{i - 1}", "y" if i + 1 == self.products else f"y{i}"
            plain |= {q: integers.reshape(-1, self.group), s: scale, z: zero}
            nodes[0] += [
                helper.make_node("DequantizeLinear", [q, s, z], [d], axis=0),
                helper.make_node("Reshape", [d, "shape"], [r]),
                helper.make_node("Transpose", [r], [w], perm=[1, 0]),
                helper.make_node("MatMul", [x, w], [y]),
            ]
            if self.kind == "float8":
                continue
            two = integers[..., ::2] | (integers[..., 1::2] << 4)
            # Without zero points they are the middle.
            packed |= {q: two if self.bits == 4 else integers, s: scale}
            sizes: dict[str, Any] = {"K": self.depth, "N": self.columns, "bits": self.bits}
            sizes |= {"block_size": self.group, "domain": "com.microsoft"}
            for level, made in zip(_LEVELS, nodes[1:]):
                node = helper.make_node(
                    "MatMulNBits", [x, q, s], [y], accuracy_level=level, **sizes
                )
                made.append(node)
        if self.kind == "float8":
            whole = self._model(nodes[0], plain)
            return whole, whole, whole
        first, *others = nodes
        return (self._model(first, plain), *(self._model(made, packed) for made in others))

    def _model(self, nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "product",
            [helper.make_tensor_value_info("x", kind, [self.rows, self.depth])],
            [helper.make_tensor_value_info("y", kind, [self.rows, self.columns])],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
        opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def prepare(self, folder: Path, again: bool) -> dict[str, Path]:
        """Files for each engine, unless they are there."""
        stem = f"{self.name.replace(' ', '')}.{self.kind}.g{self.group}"
        every = {name: folder / f"{stem}.{i}.rxc" for i, name in enumerate(OURS)}
        every |= {name: folder / f"{stem}.level{n}.onnx" for name, n in zip(ORT, _LEVELS)}
        files = {name: every[name] for name in self.engines}
        if again or not all(path.exists() for path in files.values()):
            model, *packed = self.models()
            for name, other in zip(ORT, packed):
                if name in files:
                    onnx.save(other, files[name])
            dynamic = relaxc.CompileOptions(
                quantize=QuantizeOptions(scheme="int8-dynamic", speed_gate=False)
            )
            with quiet():
                for name, options in zip(OURS, (None, dynamic)):
                    if name in files:
                        relaxc.compile(model, files[name], options)
        return files

    def measure(self, files: dict[str, Path], args: argparse.Namespace) -> str:
        """One row of the table."""
        engines = {n: relaxc_run(files[n], args.threads) for n in OURS if n in files}
        engines |= {n: onnxruntime_run(files[n], args.threads) for n in ORT if n in files}
        x = np.random.default_rng(1).standard_normal((self.rows, self.depth)).astype(np.float32)
        wanted = engines[ORT[0]](x)
        errors = {n: np.linalg.norm(run(x) - wanted) for n, run in engines.items()}
        best = dict.fromkeys(engines, float("inf"))
        stream = 0.0
        for _ in range(args.rounds):
            peaks = measure_roofline(args.threads, args.seconds / 4)
            stream = max(stream, peaks.bytes_per_s(self.size_bytes))
            for name, run in engines.items():
                best[name] = min(best[name], fastest(run, x, args.seconds))
        rates = [self.size_bytes / best[name] for name in OURS if name in best]
        pairs = [pair for pair in zip(OURS, ORT) if pair[0] in best]
        norm = np.linalg.norm(wanted)
        cells = [
            self.name,
            f"{self.kind} g{self.group}",
            *(f"{best[n] * 1e6 / self.products:.0f}" if n in best else "" for n in (*OURS, *ORT)),
            " / ".join(f"{best[ours] / best[peer]:.2f}" for ours, peer in pairs),
            " / ".join(f"{self.size_bytes / stream / best[peer]:.2f}" for _, peer in pairs),
            " / ".join(f"{rate / 1e9:.0f}" for rate in rates),
            " / ".join(f"{rate / stream:.0%}" for rate in rates),
            " / ".join(f"{error / norm:.0e}" for name, error in errors.items() if name != ORT[0]),
        ]
        return "| " + " | ".join(cells) + " |"


def relaxc_run(artifact: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """An artifact as a function."""
    model = relaxc.load(artifact, threads=threads)
    return lambda x: model.run({"x": x})["y"]


def onnxruntime_run(model: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """ONNX Runtime as a function."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options)
    return lambda x: session.run(None, {"x": x})[0]


def fastest(run: Callable[[np.ndarray], object], x: np.ndarray, seconds: float) -> float:
    """The least time of a call, in seconds."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(x)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", nargs="+", type=int, default=[1])
    parser.add_argument("--groups", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--weights", nargs="+", choices=KINDS, default=KINDS)
    columns = [size[1] for size in SIZES]
    parser.add_argument("--columns", nargs="+", type=int, choices=columns, default=columns)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.1, help="per engine and round")
    parser.add_argument("--cache", type=Path, help="where models and artifacts stay")
    parser.add_argument("--prepare", action="store_true", help="compile anew, measure nothing")
    args = parser.parse_args()
    cases = [
        Case(rows, *size, kind, group)
        for rows, size, kind, group in itertools.product(
            args.rows, SIZES, args.weights, args.groups
        )
        if size[1] in args.columns
    ]
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        files = [case.prepare(args.cache or Path(scratch), again=args.prepare) for case in cases]
        if args.prepare:
            return 0
        print(f"{this_machine().cpu}, {args.threads} threads; microseconds\n")
        heads = (
            "product",
            "weights",
            *OURS,
            *ORT,
            "ratios",
            "least",
            "GB/s",
            "of stream",
            "errors",
        )
        print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        for case, paths in zip(cases, files):
            print(case.measure(paths, args), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
