"""Compile real models, check them against ONNX Runtime and measure how they start.

    python benchmarks/models.py [--only NAME ...] [--models FOLDER] [--json FILE]

Takes the trained models under examples/models, the nine light topologies of the onnx package with
random weights, and every .onnx file of a FOLDER. Prints a table in Markdown. Starts are measured in
a fresh process for each engine, one after the other. Load and first inference leave out what the
process imports; "process" is everything, from the start of Python to its end; "memory" is the
largest resident size of that process, with Python, NumPy and the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import light_models
import onnx

from relaxc.cli.quiet import quiet
from relaxc.compiler import compile
from relaxc.measure.check import CheckOptions, check
from relaxc.measure.feeds import make_feed, write_outputs
from relaxc.measure.machine import this_machine
from relaxc.runtime.session import load

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3
START = """
import json, sys, time
import numpy as np
engine, model, inputs = sys.argv[1:]
feed = dict(np.load(inputs))
if engine == "relaxc":
    from relaxc import load
    begin = time.perf_counter()
    run = load(model).run
else:
    import onnxruntime
    begin = time.perf_counter()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    run = lambda feed: session.run(None, feed)
loaded = time.perf_counter()
run(feed)
first = time.perf_counter()
status = open("/proc/self/status").read()
peak_kib = int(status.split("VmHWM:")[1].split()[0])
print(json.dumps([(loaded - begin) * 1e3, (first - loaded) * 1e3, peak_kib / 1024]))
"""


@dataclass(frozen=True)
class Row:
    """One line of the table; times in the units of their names, sizes in bytes."""

    model: str
    max_rel_error: float
    cosine: float
    agrees: bool
    weight_bytes: int
    artifact_bytes: int
    compile_s: float
    load_ms: float
    ort_load_ms: float
    first_ms: float
    ort_first_ms: float
    process_ms: float
    ort_process_ms: float
    peak_mib: float
    ort_peak_mib: float


def sources(folder: Path | None, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Every model: its name, and its file (written when asked for)."""
    for path in sorted((ROOT / "examples" / "models").glob("*/*.onnx")):
        yield path.stem, path
    for name in light_models.NAMES:
        yield f"light_{name}", scratch / f"light_{name}.onnx"
    if folder is not None:
        for path in sorted(folder.rglob("*.onnx")):
            yield path.stem, path


def measure(name: str, path: Path, scratch: Path) -> Row:
    """Compile, check and start one model."""
    if not path.exists():
        onnx.save(light_models.light_model(name.removeprefix("light_")), path)
    artifact = scratch / "model.rxc"
    begin = time.perf_counter()
    manifest = compile(path, artifact).manifest
    compile_s = time.perf_counter() - begin
    result = check(artifact, CheckOptions(model=path))
    write_outputs(scratch / "in.npz", make_feed(load(artifact).inputs, {}))
    starts: dict[str, list[float]] = {}
    for engine, file in (("relaxc", artifact), ("onnxruntime", path)) * REPEATS:
        now = start(engine, file, scratch / "in.npz")
        starts[engine] = [min(pair) for pair in zip(now, starts.get(engine, now))]
    return Row(
        model=name,
        max_rel_error=max(a.max_rel for a in result.outputs),
        cosine=min(a.cosine for a in result.outputs),
        agrees=result.is_ok,
        weight_bytes=manifest["memory"]["weight_bytes"],
        artifact_bytes=artifact.stat().st_size,
        compile_s=compile_s,
        load_ms=starts["relaxc"][0],
        ort_load_ms=starts["onnxruntime"][0],
        first_ms=starts["relaxc"][1],
        ort_first_ms=starts["onnxruntime"][1],
        peak_mib=starts["relaxc"][2],
        ort_peak_mib=starts["onnxruntime"][2],
        process_ms=starts["relaxc"][3],
        ort_process_ms=starts["onnxruntime"][3],
    )


def start(engine: str, model: Path, inputs: Path) -> list[float]:
    """Milliseconds of load and first inference, peak MiB, milliseconds of the whole process."""
    command = [sys.executable, "-c", START, engine, str(model), str(inputs)]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    process = (time.perf_counter() - begin) * 1e3
    return [*json.loads(done.stdout), process]


def markdown(rows: list[Row]) -> str:
    """The table of `docs/startup.md`."""
    lines = [
        "| model | max rel. error | cosine | weights | artifact | compile "
        "| load (ORT) | first inference (ORT) | process (ORT) | memory (ORT) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        verdict = "" if row.agrees else " **differs**"
        lines.append(
            f"| {row.model} | {row.max_rel_error:.1e}{verdict} | {row.cosine:.6f} "
            f"| {row.weight_bytes / 1e6:.1f} MB | {row.artifact_bytes / 1e6:.1f} MB "
            f"| {row.compile_s:.1f} s "
            f"| {row.load_ms:.0f} ms ({row.ort_load_ms:.0f}) "
            f"| {row.first_ms:.1f} ms ({row.ort_first_ms:.1f}) "
            f"| {row.process_ms:.0f} ms ({row.ort_process_ms:.0f}) "
            f"| {row.peak_mib:.0f} MiB ({row.ort_peak_mib:.0f}) |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and fail when a model disagrees."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these models")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="further models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as scratch:
        for name, path in sources(args.models, Path(scratch)):
            if args.only and name not in args.only:
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            with quiet():
                rows.append(measure(name, path, Path(scratch)))
            if path.is_relative_to(scratch):
                path.unlink()
    machine = this_machine()
    print(f"{machine.cpu}, {machine.cores} cores; fastest of {REPEATS} starts\n")
    print(markdown(rows))
    if args.json:
        document: dict[str, Any] = {"machine": asdict(machine), "rows": [asdict(r) for r in rows]}
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
