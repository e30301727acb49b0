"""Weight-only products against ONNX Runtime's MatMulNBits and the memory's bandwidth.

    python benchmarks/weight_only.py [--threads 2] [--rows 1 ...] [--cache FOLDER]

Two matrices (their weights fit the last-level cache, or do not), in groups of 32 and 128, of four
and eight bits. ONNX Runtime runs at accuracy levels 0 (float32 arithmetic) and 4 (the data become
int8 too), relaxc as it is and with `int8-dynamic`; the ratios compare like with like. Engines take
turns; minimum over all rounds, in microseconds. The share of the bandwidth counts packed weights
and scales, against reading as many bytes, measured in between.
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

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.measure.machine import this_machine
from relaxc.measure.roofline import measure_roofline
from relaxc.options import QuantizeOptions

DEPTH = 4096
OURS = ("relaxc", "relaxc dynamic")
ORT = ("ORT level 0", "ORT level 4")
# Of accuracy: float32 arithmetic, and the data as int8.
LEVELS = (0, 4)


def float_model(rows: int, depth: int, columns: int, group: int, bits: int) -> onnx.ModelProto:
    """Data times a weight that DequantizeLinear gives, in groups along the depth."""
    rng = np.random.default_rng(0)
    integers = rng.integers(0, 1 << bits, (columns * (depth // group), group)).astype(np.uint8)
    scale = rng.uniform(0.5, 1.5, len(integers)).astype(np.float32) / 100
    zero = np.full(len(integers), 1 << (bits - 1), np.uint8)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=0),
        helper.make_node("Reshape", ["d", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["w"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    arrays: dict[str, np.ndarray] = {"q": integers, "s": scale}
    arrays |= {"z": zero, "shape": np.array([columns, depth])}
    return _model(nodes, arrays, rows, depth, columns)


def packed_model(model: onnx.ModelProto, group: int, bits: int, level: int) -> onnx.ModelProto:
    """The same with MatMulNBits."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    columns, depth = (int(n) for n in arrays["shape"])
    integers = arrays["q"].reshape(columns, depth // group, group)
    if bits == 4:
        integers = integers[..., ::2] | (integers[..., 1::2] << 4)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "q", "s"],
        ["y"],
        domain="com.microsoft",
        K=depth,
        N=columns,
        bits=bits,
        block_size=group,
        accuracy_level=level,
    )
    rows = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    # Without zero points they are the middle.
    return _model([node], {"q": integers, "s": arrays["s"]}, rows, depth, columns)


def _model(
    nodes: list[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
    rows: int,
    depth: int,
    columns: int,
) -> onnx.ModelProto:
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kind, [rows, depth])],
        [helper.make_tensor_value_info("y", kind, [rows, columns])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


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


@dataclass(frozen=True)
class Case:
    """A product of float32 rows by quantized weights in groups."""

    rows: int
    depth: int
    columns: int
    bits: int
    group: int

    @property
    def size_bytes(self) -> int:
        """Of packed weights and scales."""
        weights = self.depth * self.columns
        return weights * self.bits // 8 + weights // self.group * 4

    def prepare(self, folder: Path) -> dict[str, Path]:
        """Files for each engine, unless they are there."""
        stem = f"{self.rows}x{self.depth}x{self.columns}.int{self.bits}.g{self.group}"
        files = {name: folder / f"{stem}.{i}.rxc" for i, name in enumerate(OURS)}
        files |= {name: folder / f"{stem}.level{n}.onnx" for name, n in zip(ORT, LEVELS)}
        if not all(path.exists() for path in files.values()):
            model = float_model(self.rows, self.depth, self.columns, self.group, self.bits)
            for name, level in zip(ORT, LEVELS):
                onnx.save(packed_model(model, self.group, self.bits, level), files[name])
            dynamic = relaxc.CompileOptions(
                quantize=QuantizeOptions(scheme="int8-dynamic", speed_gate=False)
            )
            with quiet():
                for name, options in zip(OURS, (None, dynamic)):
                    relaxc.compile(model, files[name], options)
        return files

    def measure(self, files: dict[str, Path], args: argparse.Namespace) -> str:
        """One row of the table."""
        engines = [relaxc_run(files[name], args.threads) for name in OURS]
        engines += [onnxruntime_run(files[name], args.threads) for name in ORT]
        x = np.random.default_rng(1).standard_normal((self.rows, self.depth)).astype(np.float32)
        wanted = engines[2](x)
        errors = [np.linalg.norm(run(x) - wanted) / np.linalg.norm(wanted) for run in engines]
        best = [float("inf")] * len(engines)
        stream = 0.0
        for _ in range(args.rounds):
            peaks = measure_roofline(args.threads, args.seconds / 4)
            stream = max(stream, peaks.bytes_per_s(self.size_bytes))
            for i, run in enumerate(engines):
                best[i] = min(best[i], fastest(run, x, args.seconds))
        rates = [self.size_bytes / t for t in best[:2]]
        cells = [
            f"{self.rows}x{self.depth}x{self.columns}",
            f"int{self.bits} g{self.group}",
            *(f"{t * 1e6:.0f}" for t in best),
            " / ".join(f"{ours / peer:.2f}" for ours, peer in zip(best, best[2:])),
            " / ".join(f"{rate / 1e9:.0f}" for rate in rates),
            " / ".join(f"{rate / stream:.0%}" for rate in rates),
            " / ".join(f"{error:.0e}" for error in (errors[0], errors[1], errors[3])),
        ]
        return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", nargs="+", type=int, default=[1])
    parser.add_argument("--groups", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--columns", nargs="+", type=int, default=[4096, 32768])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.1, help="per engine and round")
    parser.add_argument("--cache", type=Path, help="where models and artifacts stay")
    parser.add_argument("--prepare", action="store_true", help="stop before the measurement")
    args = parser.parse_args()
    cases = [
        Case(rows, DEPTH, columns, bits, group)
        for rows, columns, bits, group in itertools.product(
            args.rows, args.columns, args.bits, args.groups
        )
    ]
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        files = [case.prepare(args.cache or Path(scratch)) for case in cases]
        if args.prepare:
            return 0
        print(f"{this_machine().cpu}, {args.threads} threads; microseconds\n")
        heads = ("product", "weights", *files[0], "ratios", "GB/s", "of stream", "errors")
        print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        for case, paths in zip(cases, files):
            print(case.measure(paths, args), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
