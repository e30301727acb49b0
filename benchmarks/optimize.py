"""Let `relaxc optimize` find the fastest artifact of four models, and race it against the peers.

    pip install -e .[bench,report] pillow tokenizers
    python benchmarks/optimize.py FOLDER [--only NAME] [--time-budget 15m] [--keep DIR] [--json F]

FOLDER holds trained models and `data` (see `accuracy_tasks.py`). Each model is searched by the
command that a user types, with `--max-drop 1%`; what is lost is measured on samples that the search
never saw. Then the artifact, ONNX Runtime and OpenVINO take turns with the float32 model. With
`--keep`, artifacts and reports stay there, and a model whose search has ended is only raced again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detections
import numpy as np
from accuracy_tasks import center_crop

from relaxc import cpu
from relaxc.measure.machine import this_machine
from relaxc.report.tables import table
from relaxc.search.recipe import Recipe

HEADINGS = ("Model", "Found", "Drop", "Allowed", "x ORT f32", "Bar", "x OpenVINO f32", "Minutes")
_SENTENCES, _TOKENS, _PHOTOS = 320, 128, 128


@dataclass(frozen=True)
class Subject:
    """A model to optimize.

    Attributes:
        path: in the folder.
        speed: how many times as fast as ONNX Runtime's float32 it has to be.
        samples: of the folder: arrays by input, and labels where there are some.
    """

    path: str
    speed: float
    samples: Callable[[Path], tuple[dict[str, np.ndarray], np.ndarray | None]]


def cifar(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """CIFAR-10's test images, in a random order, with their classes."""
    held = np.load(folder / "data/cifar10_test.npz")
    order = np.random.default_rng(0).permutation(len(held["y"]))
    images = held["x"][order].transpose(0, 3, 1, 2).astype(np.float32) / 255
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    images = (images - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    return {"input": images.astype(np.float32)}, held["y"][order]


def photos(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A photo of every class of ImageNet; there are 1001 classes, the first is the background."""
    known = json.loads((folder / "data/imagenet_labels.json").read_text())
    files = sorted(f for f in (folder / "data/imagenet1000").glob("*.JPEG") if f.name in known)
    images = np.stack([center_crop(file, 128) / 127.5 - 1 for file in files])
    return {"input": images.astype(np.float32)}, np.array([known[f.name] + 1 for f in files])


def sentences(folder: Path) -> tuple[dict[str, np.ndarray], None]:
    """Sentences of STS-B."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "minilm_l6/tokenizer.json"))
    tokenizer.enable_truncation(_TOKENS)
    tokenizer.enable_padding(length=_TOKENS)
    lines = (folder / "data/stsb/sts-dev.csv").read_text(encoding="utf-8").splitlines()
    encoded = tokenizer.encode_batch([line.split("\t")[5] for line in lines[:_SENTENCES]])
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {n: np.array([getattr(e, a) for e in encoded]) for n, a in names.items()}, None


def scenes(folder: Path) -> tuple[dict[str, np.ndarray], None]:
    """Photos of ImageNet and of streets."""
    files = [*sorted((folder / "photos").glob("*.jpg"))]
    files += sorted((folder / "data/imagenet1000").glob("*.JPEG"))[: _PHOTOS - len(files)]
    return {"images": np.concatenate([detections.letterboxed(file) for file in files])}, None


SUBJECTS = {
    "resnet56_cifar10": Subject("resnet_cifar/resnet56_cifar10.onnx", 3.0, cifar),
    "MiniLM-L6": Subject("minilm_l6/minilm_l6.onnx", 2.2, sentences),
    "yolox_nano": Subject("yolox_nano/yolox_nano.onnx", 2.2, scenes),
    "mobilenet_v1_025": Subject("mobilenet_v1_025/mobilenet_v1_025.onnx", 2.0, photos),
}


def measure(name: str, folder: Path, budget: str, keep: Path) -> dict[str, Any]:
    """Search, and race what was found."""
    subject = SUBJECTS[name]
    model, output = folder / subject.path, keep / f"{name}.rxc"
    arrays, labels = subject.samples(folder)
    data = keep / f"{name}.npz"
    np.savez(data, **arrays)  # type: ignore[arg-type]  # names of inputs, not of options
    shapes = ",".join(
        f"{key}:[{','.join(map(str, (1, *a.shape[1:])))}]" for key, a in arrays.items()
    )
    words = ["--data", str(data), "--max-drop", "1%", "--time-budget", budget, "-o", str(output)]
    words += ["--input-shapes", shapes, "--resume"]
    if labels is not None:
        np.save(keep / f"{name}.npy", labels)
        words += ["--labels", str(keep / f"{name}.npy")]
    found = _relaxc("optimize", str(model), *words)
    raced = _relaxc("bench", str(output), str(model), "--input-shapes", shapes, "--duration", "10")
    return {"model": name, "speed": subject.speed, "found": found, "race": raced}


def _relaxc(*words: str) -> dict[str, Any]:
    """What a command says as JSON; its exit code tells of a goal that was missed."""
    command = [sys.executable, "-m", "relaxc", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"`{' '.join(command)}` ended with {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def row(measured: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    found, held = measured["found"], measured["found"]["held_out"]
    best = next(t for t in found["trials"] if t["number"] == found["best"])
    theirs = [_speed_up(measured, engine) for engine in ("ONNX Runtime", "OpenVINO f32")]
    spent = sum(trial["seconds"] for trial in found["trials"])
    return (
        measured["model"],
        str(Recipe.from_dict(best["recipe"])),
        f"{held['drop']:.3g}",
        f"{0.01 * abs(held['float32_score']):.3g}",
        "/".join(f"{ratio:.2f}" for ratio in theirs[0]),
        f"{measured['speed']:.1f}",
        "/".join(f"{ratio:.2f}" for ratio in theirs[1]),
        f"{spent / 60:.1f}",
    )


def _speed_up(measured: dict[str, Any], engine: str) -> tuple[float, float]:
    """How many times as fast as an engine, by fastest and by median runs."""
    laps = measured["race"]["contenders"]
    ours, theirs = laps[0], next(lap for lap in laps if lap["engine"] == engine)
    fastest, median = (
        theirs["latency_ms"][key] / ours["latency_ms"][key] for key in ("min", "median")
    )
    return fastest, median


def is_kept(measured: dict[str, Any]) -> bool:
    """Whether a model is as fast as promised, and as accurate on what the search never saw."""
    is_fast = max(_speed_up(measured, "ONNX Runtime")) >= measured["speed"]
    return is_fast and bool(measured["found"]["meets_goal"])


def main() -> int:
    """Print the table; fail where a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--time-budget", default="15m")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relaxc-") as folder:
        keep = args.keep or Path(folder)
        keep.mkdir(parents=True, exist_ok=True)
        results = [measure(name, args.folder, args.time_budget, keep) for name in args.only]
    print(f"{this_machine().cpu}, {cpu.available_cores()} threads; fastest/median runs\n")
    print(table(HEADINGS, [row(measured) for measured in results], left=2))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    missed = [measured["model"] for measured in results if not is_kept(measured)]
    print(f"\nmissed: {', '.join(missed) or 'none'}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
