"""All that needs an NVIDIA GPU, in one call: the tests marked `cuda`, and the benchmarks.

    python benchmarks/gpu_suite.py prepare FOLDER [--only NAME ...] [--tuned FOLDER]
    python FOLDER/travel/gpu_suite.py run FOLDER/travel REPORT [--parts tests speed ...]

`prepare` needs TVM and a CUDA compiler, no GPU. FOLDER/travel is all that must get to the machine
with the GPU, which needs neither, but pytest, ONNX Runtime and torch. There, `run` writes REPORT/
report.md with the tables, beside what every part has printed. `--only` takes some of gpu_speed.py's
networks and cases; `--tuned` is a folder that gpu_tuned.py has filled with artifacts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import gpu_scale
import gpu_speed

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("tests", "speed", "scale", "tuned")
_INI = "[pytest]\nmarkers = cuda: needs an NVIDIA GPU\n"
_TUNED = "tuned.tar.xz"


def prepare(folder: Path, only: list[str], arch: str, tuned: Path | None) -> int:
    """Compile what tests and benchmarks need; returns what is no success."""
    gpu_speed.prepare(folder, only, arch, [])
    travel = folder / "travel"
    for name in ("gpu_suite.py", "gpu_tuned.py"):
        shutil.copy(Path(__file__).with_name(name), travel)
    if tuned is not None:
        shutil.copy(tuned / "travel" / "artifacts.tar.xz", travel / _TUNED)
    tests = travel / "tests"
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        if "pytest.mark.cuda" in test.read_text(encoding="utf-8"):
            place = tests / test.relative_to(ROOT / "tests")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(test, place)
    for name in ("builders.py", "gpu.py"):
        shutil.copy(ROOT / "tests" / name, tests)
    for name in ("mnist_cnn/mnist.onnx", "resnet_cifar/resnet20_cifar10.onnx"):
        (tests / "models" / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / "examples" / "models" / name, tests / "models" / name)
    shutil.copy(Path(__file__).with_name("gpu_conftest.py"), tests / "conftest.py")
    (tests / "pytest.ini").write_text(_INI)
    with tempfile.TemporaryDirectory() as scratch:
        code = _pytest(tests, Path(scratch), {}, "--prepare", arch)
        gpu_speed.pack_artifacts(Path(scratch), travel / "tests.tar.xz")
    return code


def _pytest(tests: Path, artifacts: Path, environment: dict[str, str], *more: str) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    environment = {**os.environ, "RELAXC_ARTIFACTS": str(artifacts), **environment}
    return subprocess.run([*command, str(tests), *more], env=environment).returncode


def run(folder: Path, report: Path, parts: list[str]) -> int:
    """Run all parts that are there; returns how many failed."""
    report.mkdir(parents=True, exist_ok=True)
    failed, texts = [], []
    for part in parts:
        is_there = (folder / _TUNED).exists() if part == "tuned" else True
        if part == "scale" and (gpus := _gpus()) < 2:
            print(f"scale needs two GPUs, this machine has {gpus}", flush=True)
            is_there = False
        if not is_there:
            continue
        with (report / f"{part}.log").open("w+", encoding="utf-8") as log:
            command = [sys.executable, str(folder / "gpu_suite.py"), part, str(folder)]
            done = subprocess.run([*command, str(report)], stdout=log, stderr=subprocess.STDOUT)
            log.seek(0)
            lines = log.read().splitlines()
        failed += [part] if done.returncode else []
        # Of tests how they ended, of benchmarks their tables.
        shown = [line for line in lines if line.startswith(("|", "images"))] or lines[-15:]
        texts.append(f"## {part}\n\n" + "\n".join(shown) + "\n")
        (report / "report.md").write_text("\n".join(texts), encoding="utf-8")
        print(texts[-1], flush=True)
    print("failed: " + (", ".join(failed) or "nothing"))
    return len(failed)


def run_part(part: str, folder: Path, report: Path) -> int:
    """Run one part in this process, which prints what it finds."""
    if part == "tests":
        with tempfile.TemporaryDirectory() as scratch:
            with tarfile.open(folder / "tests.tar.xz") as archive:
                archive.extractall(scratch, filter="data")
            site = {"PYTHONPATH": str(folder / "site")}
            return _pytest(folder / "tests", Path(scratch), site, "-rs")
    if part == "speed":
        return gpu_speed.measure(folder, report / "speed.json", [], compiled=True)
    if part == "scale":
        return gpu_scale.scale(folder)
    import gpu_tuned

    return gpu_tuned.compare(folder, report / "tuned.json", _TUNED)


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("prepare", "run", *PARTS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("report", type=Path, nargs="?", default=Path("report"))
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    if args.action == "prepare":
        return prepare(args.folder, args.only, args.arch, args.tuned)
    if args.action == "run":
        return run(args.folder, args.report, args.parts)
    return run_part(args.action, args.folder, args.report)


if __name__ == "__main__":
    sys.exit(main())
