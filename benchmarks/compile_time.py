"""Measure how long relaxc compiles without tuning, and where the time goes.

    python benchmarks/compile_time.py FOLDER [--only NAME ...] [--json FILE]

FOLDER holds what `benchmarks/export_models.py` wrote; a graph of ten thousand small operators is
made here. Every compilation runs in a process of its own. CPU time is shown beside wall time: on a
busy machine it is the one to trust.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Seconds that a compilation may take.
BARS = {"resnet50": 15.0, "bert_base": 30.0, "nodes10000": 60.0}
_COMPILE = """
import json, sys, time
import relaxc
from relaxc.cli.quiet import quiet
wall, cpu = time.perf_counter(), time.process_time()
with quiet():
    done = relaxc.compile(sys.argv[1], sys.argv[2])
print(json.dumps({
    "wall_s": time.perf_counter() - wall,
    "cpu_s": time.process_time() - cpu,
    "phases": done.seconds,
    "passes": {record.name: record.seconds for record in done.passes},
}))
"""


@dataclass(frozen=True)
class Row:
    """One compilation; times in seconds, of processes that were started for it in `cpu_s` not."""

    model: str
    bar_s: float
    wall_s: float
    cpu_s: float
    phases: dict[str, float]
    passes: dict[str, float]


def large_graph(nodes: int = 10_000, width: int = 64) -> onnx.ModelProto:
    """Blocks of five operators on `[1, width]`, each with weights of its own."""
    rng = np.random.default_rng(0)
    made, weights, last = [], [], "x"
    for block in range(nodes // 5):
        matrix = rng.standard_normal((width, width)).astype(np.float32) / 8
        vector = rng.standard_normal(width).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{block}"))
        weights.append(numpy_helper.from_array(vector, f"v{block}"))
        names = [f"{kind}{block}" for kind in ("product", "biased", "gate", "gated", "sum")]
        product, biased, gate, gated, total = names
        made += [
            helper.make_node("MatMul", [last, f"w{block}"], [product], name=product),
            helper.make_node("Add", [product, f"v{block}"], [biased], name=biased),
            helper.make_node("Sigmoid", [biased], [gate], name=gate),
            helper.make_node("Mul", [biased, gate], [gated], name=gated),
            helper.make_node("Add", [gated, last], [total], name=total),
        ]
        last = total
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, width])
    graph = helper.make_graph(made, "large", [x], [y], initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def measure(name: str, model: Path, folder: Path) -> Row:
    """Compile one file in a fresh process."""
    command = [sys.executable, "-c", _COMPILE, str(model), str(folder / "model.rxc")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Row(name, BARS[name], **json.loads(done.stdout))


def main() -> int:
    """Measure and print; fail when CPU time exceeds a bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=BARS, default=BARS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = []
    print("| model | wall | CPU | bar | costliest |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        for name in args.only:
            model = args.folder / f"{name}.onnx"
            if name == "nodes10000":
                model = Path(scratch, "nodes10000.onnx")
                onnx.save(large_graph(), model)
            row = measure(name, model, Path(scratch))
            rows.append(row)
            parts = {k: v for k, v in row.phases.items() if k != "passes"} | row.passes
            costly = sorted(parts.items(), key=lambda item: -item[1])[:5]
            told = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in costly)
            print(
                f"| {name} | {row.wall_s:.1f} s | {row.cpu_s:.1f} s | {row.bar_s:.0f} s | {told} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0 if all(row.cpu_s <= row.bar_s for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
