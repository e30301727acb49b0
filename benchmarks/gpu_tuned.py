"""What tuning gains on an NVIDIA GPU: networks tuned and untuned, in turns, in one run.

    python benchmarks/gpu_tuned.py candidates FOLDER [--only NAME ...]  # needs TVM, no GPU
    python FOLDER/candidates/measure_all.py                             # where the GPU is
    python benchmarks/gpu_tuned.py artifacts FOLDER                     # needs TVM, no GPU
    python FOLDER/travel/gpu_tuned.py compare FOLDER/travel             # needs a GPU and torch

Called again, `candidates` writes others, which learn from what was measured; `artifacts` takes all
results into FOLDER/records.jsonl. The networks are of sizes that the table of tilings, which ships
with the compiler, knows nothing of; a decoder's products of one row are in no table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_builders import OnnxNet
from gpu_models import bert, example, llama, resnet50
from gpu_speed import interleaved, pack

NETS: dict[str, Callable[[Any], Any]] = {
    "bert_s384_b1": lambda net: bert(net, 1, words=384),
    "bert_s64_b4": lambda net: bert(net, 4, words=64),
    "resnet50_b8": lambda net: resnet50(net, 8),
    "llama_decode1024": lambda net: llama(net, 1, 1024),
}
KINDS = ("untuned", "tuned")
SEARCHED = "searched.json"
# Outputs of both, relative to the norm: halves, added up in another order.
BOUND = 5e-3
MEASURE_ALL = '''"""Measures all folders of candidates beside this file, one after the other."""

import subprocess
import sys
from pathlib import Path

failed = 0
for script in sorted(Path(__file__).resolve().parent.glob("*/measure.py")):
    print(script.parent.name, flush=True)
    failed += subprocess.run([sys.executable, str(script), *sys.argv[1:]]).returncode != 0
sys.exit(failed)
'''


def compile_options(arch: str, records: Path | None) -> Any:
    """Halves throughout."""
    from relaxc.options import CompileOptions

    target = f"cuda -arch={arch}"
    return CompileOptions(target=target, precision="float16", io="float16", tuning_records=records)


def _models(only: list[str]) -> dict[str, Any]:
    found = {}
    for name, build in NETS.items():
        if not only or name in only:
            net = OnnxNet()
            found[name] = net.model(build(net))
    return found


def candidates(folder: Path, only: list[str], arch: str) -> None:
    """Compile the next candidates of every network, in a folder of their own."""
    from relaxc.report.tuning import as_text
    from relaxc.tuning.options import TuneOptions
    from relaxc.tuning.tune import tune

    place = folder / "candidates"
    place.mkdir(parents=True, exist_ok=True)
    (place / "measure_all.py").write_text(MEASURE_ALL)
    for name, model in _models(only).items():
        number = len(list(place.glob(f"{name}.*")))
        options = TuneOptions(
            candidates=place / f"{name}.{number}",
            records=folder / "records.jsonl",
            compile=compile_options(arch, None),
        )
        print(name, as_text(tune(model, options)), flush=True)


def artifacts(folder: Path, only: list[str], arch: str) -> None:
    """Read the results, and compile every network with them and without."""
    from relaxc.compiler import compile
    from relaxc.report.tuning import as_text
    from relaxc.tuning.options import TuneOptions
    from relaxc.tuning.tune import tune

    records = folder / "records.jsonl"
    (folder / "artifacts").mkdir(exist_ok=True)
    found = {}
    for name, model in _models(only).items():
        all_results = sorted((folder / "candidates").glob(f"{name}.*/measured.jsonl"))
        found[name] = searched(all_results)
        for results in all_results:
            options = compile_options(arch, None)
            told = TuneOptions(measured=results.parent, records=records, compile=options)
            print(name, as_text(tune(model, told)), flush=True)
        for kind, place in zip(KINDS, (None, records)):
            compile(
                model, folder / "artifacts" / f"{name}.{kind}.rxc", compile_options(arch, place)
            )
    (folder / "artifacts" / SEARCHED).write_text(json.dumps(found))
    pack(folder, [Path(__file__).name])


def searched(all_results: Sequence[Path]) -> dict[str, float]:
    """How many candidates were measured, and how long all that took."""
    texts = [path.read_text(encoding="utf-8").splitlines() for path in all_results]
    lines = [json.loads(line) for text in texts for line in text]
    return {
        "candidates": sum(line["kind"] == "trial" for line in lines),
        "seconds": sum(line.get("spent", 0.0) for line in lines),
    }


def compare(folder: Path, report: Path | None, packed: str = "artifacts.tar.xz") -> int:
    """Time both; returns how many results differ."""
    sys.path.insert(0, str(folder / "site"))
    import torch

    import relaxc

    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(folder / packed) as archive:
            archive.extractall(scratch, filter="data")
        counts = json.loads(Path(scratch, SEARCHED).read_text())
        for name, build in NETS.items():
            paths = [Path(scratch, f"{name}.{kind}.rxc") for kind in KINDS]
            if not paths[0].exists():
                continue
            net = OnnxNet()
            build(net)
            calls: dict[str, Callable[[], Any]] = {}
            results = []
            for kind, path in zip(KINDS, paths):
                model = relaxc.load(path, device="cuda", cache_dir=Path(scratch, "cache"))
                made = example(net.inputs)
                feed = {info.name: made[info.name].astype(info.dtype) for info in model.inputs}
                taken = {key: model.put(value) for key, value in feed.items()}
                calls[kind] = partial(model.run, taken)
                output = next(iter(calls[kind]().values()))
                results.append(torch.from_dlpack(output).double().cpu().numpy())
            apart = float(np.linalg.norm(results[1] - results[0]) / np.linalg.norm(results[0]))
            wrong += not apart <= BOUND
            times = interleaved(calls)
            ms = {kind: [min(t) * 1e3, statistics.median(t) * 1e3] for kind, t in times.items()}
            rows.append({"name": name, "apart": apart, "ms": ms, **counts[name]})
            print(rows[-1], flush=True)
    print(table(rows, torch.cuda.get_device_name()))
    if report is not None:
        report.write_text(json.dumps(rows, indent=1))
    return wrong


def table(rows: list[dict[str, Any]], card: str) -> str:
    """The result as docs show it: medians, and the ratios of these and of the fastest rounds."""
    lines = [
        f"| {card} | untuned ms | tuned ms | ratio | of the fastest rounds | outputs apart "
        "| candidates | seconds on the GPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        (fast, untuned), (faster, tuned) = (row["ms"][kind] for kind in KINDS)
        cells = [row["name"], f"{untuned:.3f}", f"{tuned:.3f}", f"{tuned / untuned:.2f}"]
        cells += [f"{faster / fast:.2f}", f"{row['apart']:.1e}"]
        cells += [str(row["candidates"]), f"{row['seconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("candidates", "artifacts", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[], choices=NETS)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    if args.action == "compare":
        return 1 if compare(args.folder, args.report) else 0
    action = candidates if args.action == "candidates" else artifacts
    action(args.folder, args.only, args.arch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
