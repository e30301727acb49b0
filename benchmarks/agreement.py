"""Compile every ONNX model of some folders, and compare each with ONNX Runtime.

    python benchmarks/agreement.py FOLDER_OR_FILE ... --log agreement.jsonl

Every model is compiled with the dimensions it leaves open, and run on made-up inputs in a process
of its own. The log holds one line per model; models in it are not run again. Prints a table in
Markdown, and ends with 1 if a model is refused, fails or disagrees.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relaxc.cli.quiet import quiet
from relaxc.measure.check import CheckOptions, check
from relaxc.options import CompileOptions, Shape

_LIMIT_S = 1800
# Models whose open dimensions take certain sizes only.
SHAPES: dict[str, dict[str, Shape]] = {
    # Its pooling leaves nothing of images that are lower than 32 pixels.
    "ch_ppocr_mobile_v2.0_cls_infer": {"x": ("n", 3, 48, 192)},
    "silero_vad_16k_op15": {"input": ("batch", 512)},
    # As many positions as the cache (224 are made up) and the tokens (16) have together.
    "stories260k": {"attention_mask": (1, 240)},
}


def main() -> int:
    """Check what the log lacks, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--log", type=Path, default=Path("agreement.jsonl"))
    parser.add_argument("--one", action="store_true", help="check one model, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(agreement(args.paths[0])))
        return 0
    known = {}
    if args.log.exists():
        lines = map(json.loads, args.log.read_text().splitlines())
        known = {entry["model"]: entry for entry in lines}
    with args.log.open("a") as log:
        for path in models(args.paths):
            if path.stem not in known:
                known[path.stem] = {"model": path.stem, **_in_child(path)}
                log.write(json.dumps(known[path.stem]) + "\n")
                log.flush()
    print(table(known.values()))
    return int(any(entry["status"] != "agrees" for entry in known.values()))


def models(paths: list[Path]) -> Iterator[Path]:
    """The ONNX files among the paths and below them."""
    for path in paths:
        yield from sorted(path.rglob("*.onnx")) if path.is_dir() else [path]


def _in_child(path: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, str(path), "--one"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"status": "hangs"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"status": "fails", "detail": last[:300]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def agreement(path: Path) -> dict[str, Any]:
    """How far the outputs of one model are from ONNX Runtime's."""
    start = time.perf_counter()
    options = CheckOptions(compile=CompileOptions(input_shapes=SHAPES.get(path.stem, {})))
    with quiet():
        result = check(path, options)
    outputs = result.outputs
    return {
        "status": "agrees" if result.is_ok else "disagrees",
        "error": max(output.max_rel for output in outputs),
        "cosine": min(output.cosine for output in outputs),
        "outputs": len(outputs),
        "seconds": round(time.perf_counter() - start, 1),
    }


def table(entries: Any) -> str:
    """The results, as Markdown."""
    lines = ["| model | outputs | max rel. error | cosine | verdict |", "|---|---|---|---|---|"]
    for entry in sorted(entries, key=lambda e: str(e["model"])):
        if "error" in entry:
            numbers = f"{entry['outputs']} | {entry['error']:.1e} | {entry['cosine']:.6f}"
        else:
            numbers = " |  | "
        verdict = entry["status"] + (f": {entry['detail']}" if "detail" in entry else "")
        lines.append(f"| {entry['model']} | {numbers} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
