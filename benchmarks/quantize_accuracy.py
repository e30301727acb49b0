"""How much accuracy quantization costs, beside ONNX Runtime's int8: a table of real models.

    pip install -e .[bench] pillow tokenizers onnx-ir
    python benchmarks/quantize_accuracy.py FOLDER [--only NAME ...] [--case TEXT ...] [--scheme ...]
    python benchmarks/quantize_accuracy.py FOLDER --case all --json rows.json --plot rows.svg

FOLDER holds trained models and `data` (see `accuracy_tasks.py`); what is not there is left out.
No labels are used, and no sample that is tested. Every line is compiled and run as users do it;
ONNX Runtime gets the same samples: `quantize_static` (QDQ, per channel), `quantize_dynamic`, or
MatMulNBits. SQNR is that of the first output, against float32. With `--json`, lines that the file
has are not measured again: it takes hours, and may be stopped.

`--keep ARTIFACTS` keeps what was compiled, and `--speed` then measures it instead, in turns with
our own float32, on the first sample that is tested; without a quiet machine that says nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from accuracy_plot import plot_exactness
from accuracy_tasks import Run, Task, sqnr, tasks
from quantized_peers import onnxruntime_as

import relaxc
from relaxc.cli.quiet import quiet
from relaxc.options import (
    CALIBRATION_METHODS,
    SCHEMES,
    CompileOptions,
    QuantizeOptions,
    Scheme,
    corrections_for,
)

PEER = "ONNX Runtime"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        model, measure, scheme: what was quantized, how, and what is measured.
        case: who quantized it, and with which options.
        base: float32's score.
        score: the quantized model's.
        loss: by how much it is worse.
        bar: how much it may be.
        sqnr: of the first output, dB.
        seconds: to quantize and compile.
    """

    model: str
    measure: str
    scheme: str
    case: str
    base: float
    score: float
    loss: float
    bar: float
    sqnr: float
    seconds: float

    @property
    def is_ok(self) -> bool:
        """Whether it keeps what is promised."""
        return self.loss <= self.bar + 1e-9


def cases(scheme: Scheme) -> dict[str, CompileOptions]:
    """Ways to quantize: all layers, but for the last, which is what users get without options."""

    def case(**options: Any) -> CompileOptions:
        return CompileOptions(quantize=QuantizeOptions(scheme=scheme, speed_gate=False, **options))

    words = corrections_for(scheme)
    found = {"default": case(), "bare": case(correct=())}
    for word in words:
        found[f"only {word}"] = case(correct=(word,))
    found["all corrections"] = case(correct=words)
    if scheme == "int8":
        for method in CALIBRATION_METHODS:
            found[f"bare, {method}"] = case(correct=(), calibration=method)
        # More layers in float, for models that lose too much.
        found["30 dB"] = case(least_sqnr_db=30.0)
        found["38 dB"] = case(least_sqnr_db=38.0)
        found["1 % noise"] = case(most_noise=0.01)
    if "weights" not in scheme:
        found["with speed gate"] = CompileOptions(quantize=QuantizeOptions(scheme=scheme))
    return found


def main() -> int:
    """Print the table; fail where a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models with this in their name")
    parser.add_argument("--case", nargs="+", default=["default"], help="`all`, or cases by name")
    parser.add_argument("--scheme", nargs="+", choices=SCHEMES, help="only these")
    parser.add_argument("--no-peer", action="store_true", help="without ONNX Runtime's int8")
    parser.add_argument("--keep", type=Path, metavar="ARTIFACTS", help="compiled models, by name")
    parser.add_argument("--speed", action="store_true", help="of those that were kept")
    parser.add_argument("--json", type=Path, help="keep the numbers there; known ones stay")
    parser.add_argument("--plot", type=Path, help="draw them, as .svg or .png")
    args = parser.parse_args()
    if args.speed and not args.keep:
        parser.error("--speed measures what --keep has kept")
    rows = Rows(args.json)
    for make in tasks(args.folder):
        try:
            task = make()
        except FileNotFoundError as err:
            print(f"left out: {err}", file=sys.stderr)
            continue
        if args.only and not any(name in task.name for name in args.only):
            continue
        if args.speed:
            for path in kept(task, args.keep):
                print(speed(task, path, float32(task, args.keep)))
        else:
            measure(task, args.case, not args.no_peer, rows, args.keep, args.scheme)
    if args.speed:
        return 0
    found = list(rows.known.values())
    print(table(found))
    if args.plot:
        plot_exactness(found, args.plot)
    return 0 if all(row.is_ok for row in found if row.case == "default") else 1


class Rows:
    """The lines of the table, kept in a file if there is one.

    Attributes:
        known: by model, scheme and case, in the order in which they were measured.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.known: dict[tuple[str, str, str], Row] = {}
        if path is not None and path.exists():
            for values in json.loads(path.read_text()):
                self._keep(Row(**values))

    def _keep(self, row: Row) -> None:
        self.known[row.model, row.scheme, row.case] = row

    def add(self, row: Row) -> None:
        """Keep a line."""
        print(line(row), file=sys.stderr, flush=True)
        self._keep(row)
        if self._path is not None:
            values = [asdict(row) for row in self.known.values()]
            self._path.write_text(json.dumps(values, indent=1) + "\n")


def measure(
    task: Task,
    names: list[str],
    with_peer: bool,
    rows: Rows,
    keep: Path | None = None,
    schemes: list[Scheme] | None = None,
) -> None:
    """Add the lines of one model that are not known."""
    ways: list[tuple[Scheme, str, Callable[[Path], Run]]] = []
    for scheme in task.bar:
        if schemes and scheme not in schemes:
            continue
        if with_peer and scheme != "fp8-weights":  # which it has no way to make
            ways.append((scheme, PEER, functools.partial(peer, task, scheme)))
        for name, options in cases(scheme).items():
            if names == ["all"] or name in names:
                place = keep and keep / f"{task.name}.{scheme}.{name}.rxc"
                ways.append((scheme, name, functools.partial(ours, task, options, place)))
    ways = [way for way in ways if (task.name, *way[:2]) not in rows.known]
    if not ways:
        return
    base = task.predict(onnxruntime_run(task.path))
    float_score = task.score(base, base)
    for scheme, case, make in ways:
        with tempfile.TemporaryDirectory(prefix="relaxc-bench-") as folder, quiet():
            start = time.perf_counter()
            run = make(Path(folder))
            seconds = time.perf_counter() - start
            outputs = task.predict(run)
        score = task.score(outputs, base)
        row = Row(
            task.name,
            task.measure,
            scheme,
            case,
            float_score,
            score,
            task.loss(score, float_score),
            task.bar[scheme],
            sqnr(outputs, base),
            seconds,
        )
        rows.add(row)


def ours(task: Task, options: CompileOptions, place: Path | None, folder: Path) -> Run:
    """The model as relaxc quantizes it."""
    path = place or folder / "model.rxc"
    relaxc.compile(task.path, path, options, calibration_data=task.calibration)
    if place is not None:
        float32(task, place.parent)
    model = relaxc.load(path)
    return lambda feed: list(model.run(feed).values())


def kept(task: Task, folder: Path) -> list[Path]:
    """Quantized artifacts of a model."""
    every = sorted(folder.glob(f"{task.name}.*.rxc"))
    return [path for path in every if path != float32(task, folder)]


def float32(task: Task, folder: Path) -> Path:
    """The artifact of the float model."""
    path = folder / f"{task.name}.float32.rxc"
    if not path.exists():
        relaxc.compile(task.path, path)
    return path


def speed(task: Task, path: Path, base: Path, seconds: float = 8.0) -> str:
    """Minimum and median of both, in turns."""
    models = [relaxc.load(path), relaxc.load(base)]
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for model, found in zip(models, times):
            for _ in range(10):
                start = time.perf_counter()
                model.run(task.tests[0])
                found.append(1e3 * (time.perf_counter() - start))
    pairs = [(min(found), statistics.median(found)) for found in times]
    texts = [f"{low:.3f} / {middle:.3f} ms" for low, middle in pairs]
    ratios = [f"{ours / theirs:.2f}" for ours, theirs in zip(*pairs)]
    return f"{path.stem}: {texts[0]}, float32 {texts[1]}, ratio {' / '.join(ratios)}"


def peer(task: Task, scheme: Scheme, folder: Path) -> Run:
    """The model as ONNX Runtime quantizes it."""
    return onnxruntime_run(onnxruntime_as(scheme, task.path, task.calibration, folder))


def onnxruntime_run(path: Path) -> Run:
    """A model in ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda feed: list(session.run(None, feed))


def table(rows: list[Row]) -> str:
    """The table of docs/quantization.md."""
    head = "| model | scheme | quantized by | float32 | quantized | loss | bar | SQNR | seconds |"
    return "\n".join([head, "|" + "---|" * 9, *map(line, rows)])


def line(row: Row) -> str:
    """One line of it."""
    unit = "%" if row.measure == "perplexity" else ""
    is_fine = row.measure in ("Spearman", "perplexity")
    places = 4 if is_fine else 2
    verdict = "" if row.is_ok else " **missed**"
    return (
        f"| {row.model}, {row.measure} | {row.scheme} | {row.case} | {row.base:.{places}f} "
        f"| {row.score:.{places}f} | {row.loss:.{places}f}{unit}{verdict} | {row.bar}{unit} "
        f"| {row.sqnr:.1f} dB | {row.seconds:.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
