"""Measure how products should be divided among a GPU's blocks, for the table that ships.

    python benchmarks/gpu_tilings.py candidates FOLDER [--only NAME ...]  # needs TVM, no GPU
    python FOLDER/candidates/measure_all.py                               # where the GPU is
    python benchmarks/gpu_tilings.py take FOLDER                          # writes what was fastest

Candidates are those of `relaxc tune`, of every product of the networks below; `take` puts what won
beside the tiling of today into the table that ships with the compiler.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

from gpu_builders import OnnxNet, QuantizedNet
from gpu_models import bert, gemm, llama, resnet50
from gpu_tuned import MEASURE_ALL, compile_options

from relaxc.targets.cuda.kernels.tilings import Tiling, table_of
from relaxc.targets.tuning.history import VERDICT
from relaxc.tuning.gpu.results import records_of
from relaxc.tuning.options import TuneOptions
from relaxc.tuning.tune import tune

# Parameters that every entry of the table has.
_FEWEST = 7
TABLE = Path("targets/cuda/kernels/measured_tilings.json")
NETS: dict[str, Callable[[Any], Any]] = {
    "resnet50_b32": lambda net: resnet50(net, 32),
    "resnet50_b1": lambda net: resnet50(net, 1),
    "bert_b8": lambda net: bert(net, 8, layers=1),
    "bert_b1": lambda net: bert(net, 1, layers=1),
    "llama_prefill512": lambda net: llama(net, 512),
    "resnet50_b32_int8": lambda net: resnet50(net, 32),
    "gemm_int8": lambda net: gemm(net, 4096),
    "llama_prefill512_float8": lambda net: llama(net, 512),
    "gemm_float8": lambda net: gemm(net, 4096),
    "gemm_float32": lambda net: gemm(net, 4096),
    "bert_b8_float32": lambda net: bert(net, 8, layers=1),
    "llama_prefill512_float32": lambda net: llama(net, 512),
    "resnet50_b32_float32": lambda net: resnet50(net, 32),
}


def candidates(folder: Path, only: list[str], arch: str, trials: int | None) -> None:
    """Compile candidates of every network, in a folder of their own."""
    place = folder / "candidates"
    place.mkdir(parents=True)
    (place / "measure_all.py").write_text(MEASURE_ALL)
    for name, build in NETS.items():
        if only and name not in only:
            continue
        net = QuantizedNet() if name.endswith("int8") else OnnxNet()
        options = TuneOptions(
            candidates=place / name,
            records=folder / "records.jsonl",
            tasks=(r"cuda\.(conv2d|matmul)",),
            trials=trials,
            compile=_options(name, arch),
        )
        print(name, tune(net.model(build(net)), options).candidates, flush=True)


def _options(name: str, arch: str) -> Any:
    options = compile_options(arch, None)
    if name.endswith("float32"):
        return replace(options, precision="float32", io="float32")
    return replace(options, precision="float8") if name.endswith("float8") else options


def take(folder: Path) -> None:
    """Write what won into the compiler's table; of products of equal sizes, the costliest wins."""
    table = json.loads(TABLE.read_text())
    best: dict[tuple[str, str], tuple[float, list[int]]] = {}
    for results in sorted((folder / "candidates").glob("*/measured.jsonl")):
        records = records_of(results.parent)
        won = {str(r["workload"]): r["choice"] for r in records if r["kind"] == VERDICT}
        for task in json.loads((results.parent / "plan.json").read_text())["tasks"]:
            workload, choice = task["workload"], won.get(str(task["workload"]))
            if not choice or not workload.get("packed"):
                continue
            # A kernel's name begins with what it computes and its sizes.
            sizes = task["kernels"][0]["name"].split("_")[1]
            key = table_of(workload["precision"]), sizes
            own = [r for r in records if r["workload"] == workload and "untuned_seconds" in r]
            seconds = min(r["untuned_seconds"] for r in own)
            best[key] = max(best.get(key, (0.0, [])), (seconds, _numbers(Tiling(**choice))))
    for (mode, sizes), (_, numbers) in best.items():
        table.setdefault(mode, {})[sizes] = numbers
    _write(table)


def _numbers(tiling: Tiling) -> list[int]:
    """Its parameters, in their order; the last may be left out where they are as usual."""
    numbers, usual = list(map(int, astuple(tiling))), [field.default for field in fields(Tiling)]
    while len(numbers) > _FEWEST and numbers[-1] == usual[len(numbers) - 1]:
        numbers.pop()
    return numbers


def _write(table: dict[str, Any]) -> None:
    parts = []
    for name, value in table.items():
        text = json.dumps(value)
        if isinstance(value, dict):
            ordered = sorted(value.items(), key=lambda item: [int(n) for n in item[0].split("x")])
            lines = ",\n".join(f'  "{sizes}": {json.dumps(t)}' for sizes, t in ordered)
            text = f"{{\n{lines}\n }}"
        parts.append(f" {json.dumps(name)}: {text}")
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("candidates", "take"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[], choices=NETS)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--trials", type=int, help="of each network at most; the likeliest")
    args = parser.parse_args()
    if args.action == "take":
        take(args.folder)
    else:
        candidates(args.folder, args.only, args.arch, args.trials)
    return 0


if __name__ == "__main__":
    sys.exit(main())
