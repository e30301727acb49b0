"""Tune models, and measure untuned, tuned, ONNX Runtime and OpenVINO in one run.

    pip install -e .[bench,tune]
    python benchmarks/tune.py FOLDER [--only NAME ...] [--time-budget 5m] [--json FILE]

FOLDER holds what `benchmarks/export_models.py` wrote. Each model is tuned from nothing, into
records of its own. Then all four take turns, as in `benchmarks/cpu.py`; ratios are geometric means
of those of the fastest and of the median runs. With `--json`, models measured before stay in the
file and in the table, so that a busy machine can be measured in pieces. The curve in that file is
the search's own estimate of the model's latency, which the comparison inside of the model corrects.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines import (
    OPENVINO,
    ORT,
    Engine,
    Feed,
    difference,
    make_feed,
    onnxruntime_engine,
    openvino_engine,
    relaxc_engine,
)

import relaxc
from relaxc import cpu
from relaxc.cli.quiet import quiet
from relaxc.measure.machine import this_machine
from relaxc.report.tables import table
from relaxc.search.goal import parse_duration
from relaxc.tuning.session import Watcher

MODELS = ("mobilenetv2", "resnet18", "resnet50", "minilm_static", "vit_tiny", "unet")
UNTUNED, TUNED = "untuned", "tuned"
# What was promised: tuned over untuned, and over the better peer.
GAIN, PEER = 1.08, 0.65
LARGEST_ERROR = 1e-3
_ROUNDS, _TURN_S = 6, 0.3


def measure(model: Path, budget_s: float, folder: Path) -> dict[str, Any]:
    """Tune a model and race it."""
    curve: list[tuple[float, float]] = []
    records = folder / "records.jsonl"
    options = relaxc.TuneOptions(time_budget_s=budget_s, records=records)
    watcher = Watcher(progress=lambda p: curve.append((p.elapsed_s, (p.total_s - p.saved_s) * 1e3)))
    tuned = relaxc.tune(model, options, watcher)
    for name, place in ((UNTUNED, None), (TUNED, records)):
        relaxc.compile(model, folder / f"{name}.rxc", relaxc.CompileOptions(tuning_records=place))
    feed = make_feed(model)
    engines = race(model, folder, feed)
    return {
        "trials": tuned.trials,
        "seconds": tuned.seconds,
        "kernels": len(tuned.kernels),
        "changed": sum(kernel.choice is not None for kernel in tuned.kernels),
        "curve": curve,
        "times_ms": {e.name: [min(e.times_ms), statistics.median(e.times_ms)] for e in engines},
    }


def race(model: Path, folder: Path, feed: Feed) -> list[Engine]:
    """All four in turns, after their outputs have been compared."""
    threads = cpu.available_cores()
    engines = [
        relaxc_engine(folder / "untuned.rxc", threads, UNTUNED),
        relaxc_engine(folder / "tuned.rxc", threads, TUNED),
        onnxruntime_engine(model, threads),
        openvino_engine(model, threads, is_float32=True),
    ]
    expected = engines[2].run(feed)
    for engine in engines[:2]:
        error = difference(engine.run(feed), expected)
        if error > LARGEST_ERROR:
            raise SystemExit(
                f"{model.name}: {engine.name} differs from ONNX Runtime by {error:.1e}"
            )
    for number in range(_ROUNDS):
        for engine in engines if number % 2 else reversed(engines):
            engine.measure(feed, _TURN_S)
    return engines


def ratio(row: Mapping[str, Any], one: str, other: str) -> float:
    """Of times: one's over another's."""
    pairs = zip(row["times_ms"][one], row["times_ms"][other])
    return statistics.geometric_mean([a / b for a, b in pairs])


def best_peer(row: Mapping[str, Any]) -> str:
    """The faster of the two."""
    return min((ORT, OPENVINO), key=lambda name: row["times_ms"][name][0])


def as_text(rows: Mapping[str, Any]) -> str:
    """The table, and what came of the promises."""
    cells = []
    for name, row in rows.items():
        best = [f"{row['times_ms'][e][0]:.3f}" for e in (UNTUNED, TUNED, ORT, OPENVINO)]
        gain, peer = ratio(row, UNTUNED, TUNED), ratio(row, TUNED, best_peer(row))
        ratios = (f"{gain:.3f}", f"{peer:.3f}")
        spent = f"{row['trials']} in {row['seconds']:.0f} s"
        cells.append((name, *best, *ratios, spent, f"{row['changed']}/{row['kernels']}"))
    heads = ("Model", "Untuned ms", "Tuned ms", "ORT ms", "OpenVINO ms", "Gain", "Of peer")
    gain = statistics.geometric_mean([ratio(r, UNTUNED, TUNED) for r in rows.values()])
    peer = statistics.geometric_mean([ratio(r, TUNED, best_peer(r)) for r in rows.values()])
    return "\n".join(
        [
            f"{this_machine().cpu}, {cpu.available_cores()} threads",
            table((*heads, "Trials", "Changed"), cells),
            f"geometric mean of the gain {gain:.3f} (bar {GAIN}), of the better peer's time "
            f"{peer:.3f} (bar {PEER})",
        ]
    )


def main() -> None:
    """Tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--time-budget", default="5m")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: dict[str, Any] = {}
    if args.json is not None and args.json.exists():
        rows = json.loads(args.json.read_text())
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="relaxc-") as folder, quiet(False):
            budget_s = parse_duration(args.time_budget)
            rows[name] = measure(args.folder / f"{name}.onnx", budget_s, Path(folder))
        if args.json is not None:
            args.json.write_text(json.dumps(rows, indent=1))
    print(as_text(rows))


if __name__ == "__main__":
    main()
