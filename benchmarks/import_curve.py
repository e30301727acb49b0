"""Seconds and memory of importing graphs of 100 to 10,000 nodes: is it linear?

    python benchmarks/import_curve.py [--nodes 100 300 1000 3000 10000]

Two kinds of graphs are made here: `layers`, of MatMul, Add and activations with fixed dimensions,
and `shapes`, in which every layer is reshaped by what it computes from its own symbolic dimensions,
as exporters write it. Every import runs in a process of its own; memory is the most that it ever
has resident, Python, NumPy and TVM included. CPU time is shown beside wall time: on a busy machine
it is the one to trust. Ends with 1 where the largest graph takes more than 30 s or 4 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from compile_time import large_graph
from onnx import TensorProto, helper, numpy_helper

BAR_S, BAR_BYTES = 30.0, 4e9
_IMPORT = """
import sys, time
from relaxc.frontend.importer import from_onnx
def most():
    lines = open("/proc/self/status").read().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("VmHWM"))
idle = most()
wall, cpu = time.perf_counter(), time.process_time()
imported = from_onnx(sys.argv[1])
spent = time.perf_counter() - wall, time.process_time() - cpu
print(*spent, idle, most())
"""


def shape_graph(nodes: int) -> onnx.ModelProto:
    """Blocks of ten operators on `[n, m, 32]`: four heads are split off and joined again."""
    weight = np.eye(32, dtype=np.float32)
    constants = {
        "w": weight,
        "zero": np.array([0]),
        "one": np.array([1]),
        "heads": np.array([4, 8]),
        "width": np.array([32]),
    }
    made: list[onnx.NodeProto] = []
    last = "x"
    for block in range(max(1, nodes // 10)):

        def node(op: str, *inputs: str, block: int = block, **attrs: object) -> str:
            name = f"{op}_{block}_{len(made)}"
            made.append(helper.make_node(op, inputs, [name], name=name, **attrs))
            return name

        dims = node("Shape", last)
        n, m = node("Gather", dims, "zero"), node("Gather", dims, "one")
        split = node("Concat", n, m, "heads", axis=0)
        parts = node("Transpose", node("Reshape", last, split), perm=[0, 2, 1, 3])
        joined = node("Concat", n, m, "width", axis=0)
        whole = node("Reshape", node("Transpose", parts, perm=[0, 2, 1, 3]), joined)
        last = node("MatMul", whole, "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m", 32])
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [None, None, None])
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(made, "shapes", [x], [y], initializer=stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 300, 1000, 3000, 10_000])
    args = parser.parse_args()
    is_good = True
    print("| graph | nodes | wall | CPU | CPU per 1,000 nodes | memory | of the import |")
    print("|---|---|---|---|---|---|---|")
    for name, make in (("layers", large_graph), ("shapes", shape_graph)):
        for count in args.nodes:
            with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as folder:
                path = Path(folder, "model.onnx")
                model = make(count)
                onnx.save(model, path)
                command = [sys.executable, "-c", _IMPORT, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            wall, cpu, idle, most = map(float, done.stdout.split())
            is_good &= cpu <= BAR_S and most * 1024 <= BAR_BYTES
            print(
                f"| {name} | {len(model.graph.node)} | {wall:.1f} s | {cpu:.1f} s "
                f"| {1000 * cpu / count:.2f} s | {most / 1024:.0f} MiB "
                f"| {(most - idle) / 1024:.0f} MiB |",
                flush=True,
            )
    return int(not is_good)


if __name__ == "__main__":
    sys.exit(main())
